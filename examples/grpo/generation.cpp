#include "generation.hpp"

#include <algorithm>
#include <cstddef>
#include <string>

#include <torch/types.h>
#include <torch/utils.h>

namespace grpo {
namespace {

std::vector<std::uint8_t> to_bytes(const torch::Tensor& tokens) {
  const torch::Tensor host = tokens.to(torch::kByte).cpu().contiguous();
  const auto* data = host.const_data_ptr<std::uint8_t>();
  return {data, data + host.numel()};
}

std::vector<float> to_floats(const torch::Tensor& values) {
  const torch::Tensor host = values.to(torch::kFloat).cpu().contiguous();
  const auto* data = host.const_data_ptr<float>();
  return {data, data + host.numel()};
}

// The rewards of completions [problem][sample][token].
std::vector<float> rewards_of(const Arithmetic& task, std::span<const Problem> problems,
                              std::span<const std::uint8_t> completions, std::size_t samples) {
  const auto length = static_cast<std::size_t>(task.completion_length());
  std::vector<float> rewards;
  for (std::size_t i = 0; i < problems.size() * samples; ++i) {
    const std::string text = to_text(completions.subspan(i * length, length));
    rewards.push_back(task.reward(problems[i / samples], text));
  }
  return rewards;
}

}  // namespace

Completions generate(LanguageModelImpl& model, const torch::Tensor& prompts, std::int64_t samples,
                     std::int64_t length, bool is_greedy) {
  const c10::InferenceMode inference;
  KeyValueCache read(model.shape(), prompts.size(0), model.embedding());
  torch::Tensor logits = model.forward(prompts, &read).select(1, -1);
  logits = logits.repeat_interleave(samples, 0);
  KeyValueCache cache = read.repeated(samples);

  std::vector<torch::Tensor> tokens;
  std::vector<torch::Tensor> log_probs;
  torch::Tensor ended = torch::zeros({logits.size(0)}, prompts.options().dtype(torch::kBool));
  for (std::int64_t step = 0; step < length; ++step) {
    const torch::Tensor log_policy = torch::log_softmax(logits, -1);
    const torch::Tensor chosen =
        is_greedy ? log_policy.argmax(-1) : torch::multinomial(log_policy.exp(), 1).squeeze(1);
    log_probs.push_back(
        log_policy.gather(1, chosen.unsqueeze(1)).squeeze(1).masked_fill(ended, 0.0));
    tokens.push_back(chosen.masked_fill(ended, Arithmetic::kEnd));
    ended = ended.logical_or(tokens.back() == Arithmetic::kEnd);
    if (step + 1 < length) {
      logits = model.forward(tokens.back().unsqueeze(1), &cache).select(1, -1);
    }
  }
  return {.tokens = torch::stack(tokens, 1), .log_probs = torch::stack(log_probs, 1)};
}

torch::Tensor prompt_tokens(const Arithmetic& task, std::span<const Problem> problems,
                            torch::Device device) {
  std::vector<std::int64_t> tokens;
  for (const Problem& problem : problems) {
    for (const std::uint8_t token : to_tokens(task.prompt(problem))) tokens.push_back(token);
  }
  return torch::tensor(tokens, torch::kLong)
      .view({static_cast<std::int64_t>(problems.size()), task.prompt_length()})
      .to(device);
}

double success_rate(LanguageModelImpl& model, const Arithmetic& task,
                    std::span<const Problem> problems) {
  const Completions completions =
      generate(model, prompt_tokens(task, problems, model.embedding().device()), 1,
               task.completion_length(), true);
  double solved = 0.0;
  for (const float reward : rewards_of(task, problems, to_bytes(completions.tokens), 1)) {
    solved += reward;
  }
  return solved / static_cast<double>(problems.size());
}

Generator::Generator(std::uint32_t worker, const Arithmetic& task, std::uint32_t groups,
                     std::uint32_t group_size, std::uint64_t seed)
    : worker_(worker), task_(task), groups_(groups), group_size_(group_size) {
  std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                         worker};
  random_.seed(sequence);
  torch::manual_seed(random_());
}

SampleBatch Generator::run(LanguageModelImpl& model, rl_loop::WeightTag tag) {
  std::vector<Problem> problems;
  for (std::uint32_t i = 0; i < groups_; ++i) problems.push_back(task_.draw(random_));
  const torch::Tensor prompts = prompt_tokens(task_, problems, model.embedding().device());
  const Completions completions =
      generate(model, prompts, group_size_, task_.completion_length(), false);

  SampleBatch batch;
  batch.tag = tag;
  batch.worker = worker_;
  batch.groups = groups_;
  batch.group_size = group_size_;
  batch.prompt_length = static_cast<std::uint32_t>(task_.prompt_length());
  batch.completion_length = static_cast<std::uint32_t>(task_.completion_length());
  batch.prompts = to_bytes(prompts);
  batch.completions = to_bytes(completions.tokens);
  batch.log_probs = to_floats(completions.log_probs);
  batch.rewards = rewards_of(task_, problems, batch.completions, group_size_);
  return batch;
}

}  // namespace grpo
