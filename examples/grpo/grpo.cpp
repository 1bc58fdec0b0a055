#include "grpo.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <random>
#include <utility>

#include <torch/nn/utils/clip_grad.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "arithmetic.hpp"
#include "gradients.hpp"
#include "objective.hpp"

namespace grpo {
namespace {

// One tensor of a field of all batches, the batches one after the other.
template <class Element>
torch::Tensor joined(std::span<const SampleBatch> batches, std::vector<Element> SampleBatch::*field,
                     torch::ScalarType type) {
  std::vector<torch::Tensor> parts;
  for (const SampleBatch& batch : batches) {
    const auto& values = batch.*field;
    parts.push_back(torch::from_blob(const_cast<Element*>(values.data()),
                                     {static_cast<std::int64_t>(values.size())},
                                     torch::TensorOptions().dtype(type)));
  }
  return torch::cat(parts);
}

std::shared_ptr<LanguageModelImpl> frozen_copy(const LanguageModelImpl& model) {
  const torch::NoGradGuard no_grad;
  auto copy = std::make_shared<LanguageModelImpl>(model.shape());
  copy->to(model.embedding().device());
  const auto from = model.distinct_parameters();
  const auto into = copy->distinct_parameters();
  for (std::size_t i = 0; i < from.size(); ++i) torch::Tensor(into[i]).copy_(from[i]);
  return copy;
}

}  // namespace

struct Grpo::Batch {
  torch::Tensor sequences, mask, behaviour, reference, advantages;
  std::int64_t prompt_length = 0;
};

torch::Tensor completion_log_probs(LanguageModelImpl& model, const torch::Tensor& sequences,
                                   std::int64_t prompt_length) {
  const std::int64_t tokens = sequences.size(1);
  // The logits at a token are of the one that follows.
  const torch::Tensor logits = model.forward(sequences.narrow(1, 0, tokens - 1))
                                   .narrow(1, prompt_length - 1, tokens - prompt_length);
  const torch::Tensor completions = sequences.narrow(1, prompt_length, tokens - prompt_length);
  return torch::log_softmax(logits, -1).gather(2, completions.unsqueeze(2)).squeeze(2);
}

Grpo::Grpo(const GrpoOptions& options, std::shared_ptr<LanguageModelImpl> policy,
           torch::optim::Optimizer& optimizer, rl_loop::RankGroup& ranks, std::uint64_t seed)
    : options_(options),
      policy_(std::move(policy)),
      reference_(options.kl_weight > 0.0 ? frozen_copy(*policy_) : nullptr),
      parameters_(policy_->distinct_parameters()),
      optimizer_(optimizer),
      ranks_(ranks),
      seed_(seed) {}

Grpo::Batch Grpo::prepare(std::span<const SampleBatch> batches) {
  const torch::NoGradGuard no_grad;
  const SampleBatch& first = batches.front();
  const torch::Device device = policy_->embedding().device();
  Batch batch;
  batch.prompt_length = first.prompt_length;
  const torch::Tensor prompts = joined(batches, &SampleBatch::prompts, torch::kByte)
                                    .view({-1, first.prompt_length})
                                    .repeat_interleave(first.group_size, 0);
  const torch::Tensor completions = joined(batches, &SampleBatch::completions, torch::kByte)
                                        .view({-1, first.completion_length});
  batch.sequences = torch::cat({prompts, completions}, 1).to(torch::kLong).to(device);
  batch.mask = sampled_mask(completions, Arithmetic::kEnd).to(device);
  batch.behaviour = joined(batches, &SampleBatch::log_probs, torch::kFloat)
                        .view({-1, first.completion_length})
                        .to(device);
  const torch::Tensor rewards =
      joined(batches, &SampleBatch::rewards, torch::kFloat).view({-1, first.group_size});
  batch.advantages = group_advantages(rewards).view({-1, 1}).to(device);
  if (reference_) {
    batch.reference = completion_log_probs(*reference_, batch.sequences, batch.prompt_length);
  }
  return batch;
}

torch::Tensor Grpo::loss(const Batch& batch, const torch::Tensor& rows,
                         GrpoStatistics& statistics) {
  const torch::Tensor log_probs = completion_log_probs(
      *policy_, batch.sequences.index_select(0, rows), batch.prompt_length);
  const torch::Tensor behaviour = batch.behaviour.index_select(0, rows);
  const torch::Tensor mask = batch.mask.index_select(0, rows);
  torch::Tensor objective = clipped_objective(
      log_probs, behaviour, batch.advantages.index_select(0, rows), options_.clip);
  if (reference_) {
    const torch::Tensor divergence =
        k3_divergence(log_probs, batch.reference.index_select(0, rows));
    objective = objective - options_.kl_weight * divergence;
    statistics.divergence += sequence_mean(divergence.detach(), mask).item<double>();
  }
  const torch::Tensor loss = -sequence_mean(objective, mask);

  const torch::Tensor is_clipped =
      ((log_probs.detach() - behaviour).exp() - 1.0).abs() > options_.clip;
  statistics.clipped += sequence_mean(is_clipped.to(torch::kFloat), mask).item<double>();
  statistics.loss += loss.item<double>();
  return loss;
}

GrpoStatistics Grpo::update(std::span<const SampleBatch> batches) {
  set_learning_rate();
  const Batch batch = prepare(batches);
  const std::int64_t count = batch.sequences.size(0);
  // All ranks have as many rows, so all take as many steps and average with each other.
  const std::int64_t minibatch = std::max<std::int64_t>(count / options_.minibatches, 1);

  std::mt19937_64 random(seed_ * 0x9e3779b97f4a7c15ULL + updates_);
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  GrpoStatistics statistics;
  int steps = 0;
  for (int epoch = 0; epoch < options_.epochs; ++epoch) {
    std::shuffle(order.begin(), order.end(), random);
    const torch::Tensor shuffled = torch::from_blob(order.data(), {count}, torch::kLong)
                                       .to(batch.sequences.device());
    for (std::int64_t begin = 0; begin + minibatch <= count; begin += minibatch) {
      optimizer_.zero_grad();
      loss(batch, shuffled.narrow(0, begin, minibatch), statistics).backward();
      rl_loop::average_gradients(parameters_, ranks_);
      torch::nn::utils::clip_grad_norm_(parameters_, options_.max_gradient_norm);
      optimizer_.step();
      ++steps;
    }
  }
  ++updates_;
  for (double* mean : {&statistics.loss, &statistics.clipped, &statistics.divergence}) {
    *mean /= std::max(steps, 1);
  }
  return statistics;
}

void Grpo::set_learning_rate() {
  const double progress =
      std::min(1.0, static_cast<double>(updates_) / static_cast<double>(options_.updates));
  const double rate = options_.learning_rate * (1.0 - progress * (1.0 - options_.final_share));
  for (auto& group : optimizer_.param_groups()) group.options().set_lr(rate);
}

}  // namespace grpo
