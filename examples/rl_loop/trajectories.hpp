#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "clock.hpp"
#include "segment.hpp"

namespace rl_loop {

/// Where trainer rank `rank` listens for segments: a Unix socket in `directory`.
[[nodiscard]] std::string trajectory_endpoint(const std::string& directory, int rank);

/// A worker's end: hands whole segments to the trainer ranks in turn. Not thread-safe.
class SegmentSender {
 public:
  /// Does not wait for the trainer: sockets connect whenever it appears.
  /// @throw zmq::error_t when a socket cannot be made.
  SegmentSender(const std::string& directory, int trainer_ranks);
  ~SegmentSender();

  /// Sends to the next rank, or to another one if that rank does not take it by `deadline`.
  /// @return false when no rank took it; the segment is dropped then, since it would be stale.
  bool send(const Segment& segment, Clock::time_point deadline);

 private:
  struct Sockets;
  std::unique_ptr<Sockets> sockets_;
  std::size_t next_rank_ = 0;
};

/// A trainer rank's end: keeps what arrived and is not too old. Not thread-safe.
class SegmentCollector {
 public:
  struct Counts {
    std::uint64_t accepted = 0;
    std::uint64_t stale =
        0;  ///< Older than the newest version by more than one, or of another run.
    std::uint64_t malformed = 0;  ///< Refused by decode() or not of the expected shape.
  };

  /// Binds this rank's endpoint.
  /// @throw zmq::error_t when the endpoint cannot be bound.
  SegmentCollector(const std::string& directory, int rank);
  ~SegmentCollector();

  /// Drops what `newest` makes stale and waits until `wanted` segments are at hand.
  /// @return how many are at hand when it returns; fewer than `wanted` at the deadline.
  std::size_t collect(WeightTag newest, std::size_t wanted, Clock::time_point deadline);

  /// Hands out `count` of the segments at hand, those of the newest version first. The others stay
  /// for the next iteration.
  [[nodiscard]] std::vector<Segment> take(std::size_t count);

  /// Returns of the episodes that ended in segments accepted since the last call.
  [[nodiscard]] std::vector<float> take_episode_returns();

  [[nodiscard]] const Counts& counts() const { return counts_; }

  /// Version that each worker used for its last accepted segment, indexed by worker.
  [[nodiscard]] const std::vector<std::uint64_t>& versions_seen() const { return versions_seen_; }

 private:
  void accept(Segment segment, WeightTag newest);

  struct Socket;
  std::unique_ptr<Socket> socket_;
  std::vector<Segment> at_hand_;
  std::vector<float> episode_returns_;
  std::vector<std::uint64_t> versions_seen_;
  Counts counts_;
};

}  // namespace rl_loop
