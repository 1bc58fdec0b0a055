#pragma once

#include <ATen/core/Tensor.h>

namespace grpo {

// GRPO (DeepSeekMath, Shao et al. 2024, arXiv 2402.03300, section 4.1) for tensors of any device.
// Rewards are [groups, samples], everything a token has is [sequences, tokens].

/// How much better than its group each sample was: (r - mean) / (std + 1e-4), with the group's own
/// mean and standard deviation (of the sample, divided by n - 1); zeros where all are alike.
/// @param rewards float [groups, samples], at least two samples.
[[nodiscard]] at::Tensor group_advantages(const at::Tensor& rewards);

/// What is maximized for each token: min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), where ratio
/// is the token's probability now over what it was when it was sampled.
/// @param advantages [sequences, 1]
[[nodiscard]] at::Tensor clipped_objective(const at::Tensor& log_probs, const at::Tensor& behaviour,
                                           const at::Tensor& advantages, double clip);

/// The estimate k3 of the KL divergence from a reference for each token: q/p - log(q/p) - 1, where
/// q is the reference's probability and p the policy's (Schulman 2020, http://joschu.net/blog/kl-approx.html).
/// Unbiased, and never negative.
[[nodiscard]] at::Tensor k3_divergence(const at::Tensor& log_probs, const at::Tensor& reference);

/// Which tokens were sampled: those up to and with the first end token, as floats.
/// @param completions long [sequences, tokens].
[[nodiscard]] at::Tensor sampled_mask(const at::Tensor& completions, std::int64_t end);

/// The mean over sequences of each one's mean over the tokens that the mask has, at least one.
[[nodiscard]] at::Tensor sequence_mean(const at::Tensor& values, const at::Tensor& mask);

}  // namespace grpo
