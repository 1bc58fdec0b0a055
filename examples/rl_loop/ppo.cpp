#include "ppo.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>

#include <torch/nn/utils/clip_grad.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "cartpole.hpp"
#include "gae.hpp"
#include "gradients.hpp"

namespace rl_loop {
namespace {

constexpr double kAdvantageEpsilon = 1e-8;

// One tensor of a field of all segments, the segments one after the other.
template <class Element>
torch::Tensor joined(std::span<const Segment> segments, std::vector<Element> Segment::*field,
                     torch::ScalarType type) {
  std::vector<torch::Tensor> parts;
  for (const Segment& segment : segments) {
    const auto& values = segment.*field;
    parts.push_back(torch::from_blob(const_cast<Element*>(values.data()),
                                     {static_cast<std::int64_t>(values.size())},
                                     torch::TensorOptions().dtype(type)));
  }
  return torch::cat(parts);
}

std::span<const float> floats(const torch::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

struct Ppo::Batch {
  torch::Tensor states, actions, log_probs, advantages, returns;
};

Ppo::Ppo(const PpoOptions& options, std::shared_ptr<PolicyImpl> policy,
         torch::optim::Optimizer& optimizer, RankGroup& ranks, std::uint64_t seed)
    : options_(options),
      policy_(std::move(policy)),
      parameters_(policy_->parameters()),
      optimizer_(optimizer),
      ranks_(ranks),
      seed_(seed) {}

Ppo::Batch Ppo::prepare(std::span<const Segment> segments) {
  const torch::NoGradGuard no_grad;
  Batch batch;
  batch.states =
      joined(segments, &Segment::states, torch::kFloat).view({-1, CartPole::kObservationSize});
  batch.actions = joined(segments, &Segment::actions, torch::kByte).to(torch::kLong);
  batch.log_probs = joined(segments, &Segment::log_probs, torch::kFloat);

  const torch::Tensor next_states =
      joined(segments, &Segment::next_states, torch::kFloat).view({-1, CartPole::kObservationSize});
  const torch::Tensor values = policy_->value(batch.states).contiguous();
  const torch::Tensor next_values = policy_->value(next_states).contiguous();
  batch.advantages = torch::empty_like(values);
  std::size_t offset = 0;
  for (const Segment& segment : segments) {
    const std::size_t count = segment.transitions();
    generalized_advantages(
        segment, floats(values).subspan(offset, count), floats(next_values).subspan(offset, count),
        static_cast<float>(options_.discount), static_cast<float>(options_.gae_lambda),
        {batch.advantages.data_ptr<float>() + offset, count});
    offset += count;
  }
  batch.returns = batch.advantages + values;
  return batch;
}

torch::Tensor Ppo::loss(const Batch& batch, const torch::Tensor& rows, PpoStatistics& statistics) {
  const torch::Tensor states = batch.states.index_select(0, rows);
  torch::Tensor advantages = batch.advantages.index_select(0, rows);
  advantages = (advantages - advantages.mean()) / (advantages.std() + kAdvantageEpsilon);

  const torch::Tensor log_policy = torch::log_softmax(policy_->forward(states), -1);
  const torch::Tensor log_probs =
      log_policy.gather(1, batch.actions.index_select(0, rows).unsqueeze(1)).squeeze(1);
  const torch::Tensor log_ratio = log_probs - batch.log_probs.index_select(0, rows);
  const torch::Tensor ratio = log_ratio.exp();
  const torch::Tensor clipped = ratio.clamp(1.0 - options_.clip, 1.0 + options_.clip);
  const torch::Tensor policy_loss = -torch::min(ratio * advantages, clipped * advantages).mean();
  const torch::Tensor value_loss =
      (policy_->value(states) - batch.returns.index_select(0, rows)).square().mean();
  const torch::Tensor entropy = -(log_policy.exp() * log_policy).sum(-1).mean();

  statistics.policy_loss += policy_loss.item<double>();
  statistics.value_loss += value_loss.item<double>();
  statistics.entropy += entropy.item<double>();
  statistics.divergence += ((ratio.detach() - 1.0) - log_ratio.detach()).mean().item<double>();
  return policy_loss + options_.value_weight * value_loss - options_.entropy_weight * entropy;
}

PpoStatistics Ppo::update(std::span<const Segment> segments) {
  set_learning_rate();
  const Batch batch = prepare(segments);
  const auto count = batch.states.size(0);
  // All ranks have as many rows, so all take as many steps and average with each other.
  const std::int64_t minibatch = std::min<std::int64_t>(options_.minibatch, count);

  std::mt19937_64 random(seed_ * 0x9e3779b97f4a7c15ULL + static_cast<std::uint64_t>(updates_));
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  PpoStatistics statistics;
  int minibatches = 0;
  for (int epoch = 0; epoch < options_.epochs; ++epoch) {
    std::shuffle(order.begin(), order.end(), random);
    const torch::Tensor shuffled = torch::from_blob(order.data(), {count}, torch::kLong);
    for (std::int64_t begin = 0; begin + minibatch <= count; begin += minibatch) {
      optimizer_.zero_grad();
      loss(batch, shuffled.narrow(0, begin, minibatch), statistics).backward();
      average_gradients(parameters_, ranks_);
      torch::nn::utils::clip_grad_norm_(parameters_, options_.max_gradient_norm);
      optimizer_.step();
      ++minibatches;
    }
  }
  ++updates_;
  for (double* mean : {&statistics.policy_loss, &statistics.value_loss, &statistics.entropy,
                       &statistics.divergence}) {
    *mean /= std::max(minibatches, 1);
  }
  return statistics;
}

void Ppo::set_learning_rate() {
  const double progress =
      std::min(1.0, static_cast<double>(updates_) / std::max(options_.decay_updates, 1));
  const double rate =
      options_.learning_rate + progress * (options_.final_learning_rate - options_.learning_rate);
  for (auto& group : optimizer_.param_groups()) group.options().set_lr(rate);
}

}  // namespace rl_loop
