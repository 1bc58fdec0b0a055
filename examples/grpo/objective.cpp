#include "objective.hpp"

#include <torch/types.h>

namespace grpo {
namespace {

constexpr double kDeviationEpsilon = 1e-4;

}  // namespace

at::Tensor group_advantages(const at::Tensor& rewards) {
  const at::Tensor from_mean = rewards - rewards.mean(1, true);
  return from_mean / (rewards.std(1, true, true) + kDeviationEpsilon);
}

at::Tensor clipped_objective(const at::Tensor& log_probs, const at::Tensor& behaviour,
                             const at::Tensor& advantages, double clip) {
  const at::Tensor ratio = (log_probs - behaviour).exp();
  return torch::min(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages);
}

at::Tensor k3_divergence(const at::Tensor& log_probs, const at::Tensor& reference) {
  const at::Tensor log_ratio = reference - log_probs;
  return log_ratio.exp() - log_ratio - 1.0;
}

at::Tensor sampled_mask(const at::Tensor& completions, std::int64_t end) {
  const at::Tensor ends = (completions == end).to(torch::kLong);
  return ((ends.cumsum(1) - ends) == 0).to(torch::kFloat);
}

at::Tensor sequence_mean(const at::Tensor& values, const at::Tensor& mask) {
  return ((values * mask).sum(1) / mask.sum(1)).mean();
}

}  // namespace grpo
