#pragma once

#include <span>

#include "segment.hpp"

namespace rl_loop {

/// Generalized advantage estimation (Schulman et al. 2016) over one segment. A terminated step has
/// no future, a truncated one bootstraps from its next state, and so does the segment's last step.
/// @param values, next_values the critic's estimates for states and next_states,
/// [step][environment].
/// @param advantages output, of the same size.
void generalized_advantages(const Segment& segment, std::span<const float> values,
                            std::span<const float> next_values, float discount, float lambda,
                            std::span<float> advantages);

}  // namespace rl_loop
