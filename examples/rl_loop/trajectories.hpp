#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "clock.hpp"
#include "segment.hpp"
#include "trajectory_socket.hpp"
#include "weight_tag.hpp"

namespace rl_loop {

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
  SegmentCollector(const std::string& directory, int rank) : socket_(directory, rank) {}

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

  TrajectoryReceiver socket_;
  std::vector<Segment> at_hand_;
  std::vector<float> episode_returns_;
  std::vector<std::uint64_t> versions_seen_;
  Counts counts_;
};

}  // namespace rl_loop
