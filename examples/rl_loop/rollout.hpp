#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "cartpole.hpp"
#include "policy.hpp"
#include "segment.hpp"

namespace rl_loop {

/// The environments of one worker. Not thread-safe.
class Rollout {
 public:
  Rollout(std::uint32_t worker, std::uint32_t environments, std::uint32_t steps,
          std::uint64_t seed);

  /// Acts for the configured number of steps in all environments, one batched forward a step.
  /// @param policy must not change during the call.
  /// @param tag the version that `policy` holds.
  [[nodiscard]] Segment run(PolicyImpl& policy, WeightTag tag);

 private:
  std::uint32_t worker_;
  std::uint32_t steps_;
  std::vector<CartPole> environments_;
  std::mt19937_64 random_;
};

}  // namespace rl_loop
