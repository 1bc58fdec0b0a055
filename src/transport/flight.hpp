// What a lane has under way: how many buckets, and the completions that nobody has taken yet.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>

#include "base/unique_fd.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Bounds the buckets of a lane and hands out how they ended. A bucket counts as in flight until
/// poll() has handed out its completion.
/// Thread safety: begin, poll, close and refuse from the lane's one thread; end from any.
class Flight {
 public:
  /// @return kInvalid for copy_threads outside 1..64 or max_in_flight of 0, kExhausted where there
  /// is
  ///   no descriptor
  static Result<std::unique_ptr<Flight>> make(const LaneOptions& options);
  Flight(std::uint32_t max_in_flight, base::UniqueFd event);

  /// Counts one more bucket. @return kCancelled after refuse(), kExhausted where no more may be in
  /// flight
  Status begin();
  /// Takes back a begin() whose bucket did not get under way.
  void undo();
  /// The one end of a bucket that has begun.
  void end(Completion completion);

  /// As Lane's of the same names.
  std::size_t poll(std::span<Completion> out);
  int event_fd() const noexcept { return event_.get(); }
  Status close(Deadline deadline);

  /// Begins nothing more.
  void refuse() noexcept;

 private:
  const std::uint32_t max_in_flight_;
  const base::UniqueFd event_;  ///< readable exactly while done_ is not empty
  std::mutex mutex_;
  std::condition_variable idle_;  ///< nothing is under way
  std::size_t under_way_ = 0;     ///< begun and not ended
  std::deque<Completion> done_;
  bool closed_ = false;
};

}  // namespace weightcast::transport
