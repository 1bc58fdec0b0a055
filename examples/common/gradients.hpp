#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "rank_group.hpp"

namespace rl_loop {

/// Replaces the parameters' gradients by their means over the ranks, the same bits on all of them.
/// Float gradients, on any device; all parameters must have one. Collective; blocks for the slowest
/// rank.
/// @throw as RankGroup::average
void average_gradients(const std::vector<at::Tensor>& parameters, RankGroup& ranks);

/// The same for the parameters themselves.
void average_parameters(const std::vector<at::Tensor>& parameters, RankGroup& ranks);

}  // namespace rl_loop
