#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "clock.hpp"
#include "sample_batch.hpp"
#include "trajectory_socket.hpp"

namespace grpo {

/// A trainer rank's end of the trajectories: keeps what arrived and is not too old. Not thread-safe.
class SampleCollector {
 public:
  struct Counts {
    std::uint64_t accepted = 0;
    std::uint64_t stale = 0;      ///< More than one version old, or of another run.
    std::uint64_t malformed = 0;  ///< Refused by decode() or not of the first one's shape.
    std::uint64_t tokens = 0;     ///< Sampled, in what was accepted.
    std::uint64_t samples = 0;    ///< In what was accepted.
    double rewards = 0.0;         ///< Sum, in what was accepted.
  };

  /// Binds this rank's endpoint.
  /// @throw zmq::error_t when the endpoint cannot be bound.
  SampleCollector(const std::string& directory, int rank) : socket_(directory, rank) {}

  /// Drops what `newest` makes stale and waits until `wanted` batches are at hand.
  /// @return how many are at hand when it returns; fewer than `wanted` at the deadline.
  std::size_t collect(rl_loop::WeightTag newest, std::size_t wanted,
                      rl_loop::Clock::time_point deadline);

  /// Hands out `count` of the batches at hand, those of the newest version first. The others stay
  /// for the next iteration.
  [[nodiscard]] std::vector<SampleBatch> take(std::size_t count);

  [[nodiscard]] const Counts& counts() const { return counts_; }

 private:
  void accept(SampleBatch batch, rl_loop::WeightTag newest);
  [[nodiscard]] bool has_our_shape(const SampleBatch& batch) const;

  rl_loop::TrajectoryReceiver socket_;
  std::vector<SampleBatch> at_hand_;
  SampleBatch shape_;  // The first one's, without its arrays.
  Counts counts_;
};

}  // namespace grpo
