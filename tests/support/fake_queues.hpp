// The streams of a FakeCuda: queues of work that is done a piece at a time.
// Thread safety: none; FakeCuda calls it under its lock.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "driver/cuda.hpp"

namespace weightcast::driver::fake {

/// A point in a queue that an event or a stream waits for.
struct Marker {
  bool over = false;
  std::int64_t time_ns = 0;  ///< when it was passed
  Status status;             ///< of the work before it in its queue
};

struct Work {
  std::string what;
  std::shared_ptr<const Marker> waits_for;  ///< not begun before this is over
  /// Does at most `budget` bytes and takes them off it. @return whether all is done
  std::function<Result<bool>(std::uint64_t& budget)> piece;
  std::shared_ptr<Marker> marks;  ///< over with the work
};

class Queues {
 public:
  /// @param seed of the order among streams that could go on; 0: one after the other
  Queues(std::uint64_t seed, std::uint64_t bytes_a_second)
      : random_(seed), is_random_(seed != 0), bytes_a_second_(bytes_a_second) {}

  Stream create(int device);
  /// The work in it is still done. @return whether there was such a stream
  bool destroy(int device, Stream stream);
  bool is_live(int device, Stream stream) const;
  std::size_t live() const;

  void push(int device, Stream stream, Work work);
  /// A point behind all that is in the stream.
  std::shared_ptr<Marker> mark(int device, Stream stream);
  std::vector<std::shared_ptr<Marker>> mark_all(int device);

  void hold(int device, Stream stream, bool held);
  /// Does a piece of some stream that can go on. @return the bytes it did; nothing: none can
  std::optional<std::uint64_t> step(std::uint64_t piece_bytes, bool also_held = false);
  void fail_next_work(int device, Status status) { failures_[device] = std::move(status); }
  std::size_t pending() const;

 private:
  struct Queue {
    int device = 0;
    bool is_live = true;
    bool is_held = false;
    std::deque<Work> works;
    Status status;  ///< of the first work that failed; it stays
    std::int64_t time_ns = 0;
  };
  Queue& at(int device, Stream stream);
  void drop_ended();

  std::map<std::pair<int, std::uintptr_t>, Queue> queues_;  ///< a device's default stream is 0
  std::map<int, Status> failures_;
  std::uintptr_t next_ = 0x1000;  ///< never given again, so that a dead stream is known
  std::pair<int, std::uintptr_t> last_{};
  std::mt19937_64 random_;
  bool is_random_;
  std::uint64_t bytes_a_second_;
};

}  // namespace weightcast::driver::fake
