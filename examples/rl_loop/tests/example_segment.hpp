#pragma once

#include <cstddef>
#include <cstdint>

#include "cartpole.hpp"
#include "segment.hpp"

namespace rl_loop {

/// A segment with different values everywhere.
inline Segment example_segment(WeightTag tag, std::uint32_t steps = 3,
                               std::uint32_t environments = 2) {
  Segment segment;
  segment.tag = tag;
  segment.worker = 4;
  segment.steps = steps;
  segment.environments = environments;
  const std::size_t count = segment.transitions();
  for (std::size_t i = 0; i < count * CartPole::kObservationSize; ++i) {
    segment.states.push_back(0.01F * static_cast<float>(i));
    segment.next_states.push_back(0.01F * static_cast<float>(i) + 0.005F);
  }
  for (std::size_t i = 0; i < count; ++i) {
    segment.log_probs.push_back(-0.5F - 0.01F * static_cast<float>(i));
    segment.rewards.push_back(1.0F + static_cast<float>(i));
    segment.actions.push_back(static_cast<std::uint8_t>(i % 2));
    segment.terminated.push_back(i % 5 == 4 ? 1 : 0);
    segment.truncated.push_back(0);
  }
  segment.episode_returns = {17.0F, 23.0F};
  return segment;
}

}  // namespace rl_loop
