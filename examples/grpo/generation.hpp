#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "arithmetic.hpp"
#include "language_model.hpp"
#include "sample_batch.hpp"

namespace grpo {

struct Completions {
  torch::Tensor tokens;     ///< long [prompts * samples, length]; end tokens from the first one on.
  torch::Tensor log_probs;  ///< float, as `tokens`; 0 after the first end token.
};

/// Continues each prompt, `samples` times, by a key-value cache: the prompt is read once, then one
/// token a step.
/// @param prompts long [prompts, tokens], on the model's device.
/// @param length of a completion at most, in tokens.
/// @param is_greedy the likeliest token each time, else one drawn by torch's default generator.
[[nodiscard]] Completions generate(LanguageModelImpl& model, const torch::Tensor& prompts,
                                   std::int64_t samples, std::int64_t length, bool is_greedy);

/// Prompts of the problems, long [problems, tokens], on a device.
[[nodiscard]] torch::Tensor prompt_tokens(const Arithmetic& task, std::span<const Problem> problems,
                                          torch::Device device);

/// The share of the problems that the model solves by its likeliest tokens.
[[nodiscard]] double success_rate(LanguageModelImpl& model, const Arithmetic& task,
                                  std::span<const Problem> problems);

/// What one worker generates. Not thread-safe.
class Generator {
 public:
  Generator(std::uint32_t worker, const Arithmetic& task, std::uint32_t groups,
            std::uint32_t group_size, std::uint64_t seed);

  /// New problems, `group_size` samples of each, and their rewards.
  /// @param model must not change during the call.
  /// @param tag the version that `model` holds.
  [[nodiscard]] SampleBatch run(LanguageModelImpl& model, rl_loop::WeightTag tag);

 private:
  std::uint32_t worker_;
  Arithmetic task_;
  std::uint32_t groups_;
  std::uint32_t group_size_;
  std::mt19937_64 random_;
};

}  // namespace grpo
