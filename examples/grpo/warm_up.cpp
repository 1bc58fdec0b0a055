#include "warm_up.hpp"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "generation.hpp"
#include "grpo.hpp"
#include "objective.hpp"

namespace grpo {
namespace {

constexpr int kRisingSteps = 20;  // Of the learning rate, from nothing.
constexpr double kMaxGradientNorm = 1.0;

// Prompts with their answers, long [batch, tokens]; end tokens behind the answers.
torch::Tensor draw_examples(const Arithmetic& task, std::int64_t batch, std::mt19937_64& random) {
  const std::int64_t length = task.prompt_length() + task.completion_length();
  const torch::Tensor examples =
      torch::full({batch, length}, static_cast<std::int64_t>(Arithmetic::kEnd), torch::kLong);
  auto* row = examples.data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < batch; ++i, row += length) {
    const Problem problem = task.draw(random);
    const auto tokens = to_tokens(task.prompt(problem) + task.answer(problem));
    std::copy(tokens.begin(), tokens.end(), row);
  }
  return examples;
}

}  // namespace

WarmUp warm_up(LanguageModelImpl& model, const Arithmetic& task, std::span<const Problem> held_out,
               const WarmUpOptions& options, std::uint64_t seed) {
  const std::vector<torch::Tensor> parameters = model.distinct_parameters();
  const auto rule =
      torch::optim::AdamWOptions(options.learning_rate).betas({0.9, 0.95}).weight_decay(0.01);
  torch::optim::AdamW optimizer(parameters, rule);
  std::mt19937_64 random(seed);
  WarmUp result;
  while (result.steps < options.most_steps) {
    const double risen = std::min(1.0, static_cast<double>(result.steps + 1) / kRisingSteps);
    for (auto& group : optimizer.param_groups()) {
      group.options().set_lr(risen * options.learning_rate);
    }
    const torch::Tensor examples =
        draw_examples(task, options.batch, random).to(model.embedding().device());
    const torch::Tensor completions =
        examples.narrow(1, task.prompt_length(), task.completion_length());
    optimizer.zero_grad();
    (-sequence_mean(completion_log_probs(model, examples, task.prompt_length()),
                    sampled_mask(completions, Arithmetic::kEnd)))
        .backward();
    torch::nn::utils::clip_grad_norm_(parameters, kMaxGradientNorm);
    optimizer.step();
    ++result.steps;
    if (result.steps % options.check_every == 0) {
      result.success = success_rate(model, task, held_out);
      if (result.success >= options.target) break;
    }
  }
  result.success = success_rate(model, task, held_out);
  return result;
}

}  // namespace grpo
