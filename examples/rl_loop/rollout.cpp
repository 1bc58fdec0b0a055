#include "rollout.hpp"

#include <cmath>
#include <cstddef>

#include <torch/types.h>

namespace rl_loop {
namespace {

void append(std::vector<float>& states, const CartPole& environment) {
  for (const double component : environment.state()) {
    states.push_back(static_cast<float>(component));
  }
}

}  // namespace

Rollout::Rollout(std::uint32_t worker, std::uint32_t environments, std::uint32_t steps,
                 std::uint64_t seed)
    : worker_(worker), steps_(steps), environments_(environments) {
  std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                         worker};
  random_.seed(sequence);
  for (CartPole& environment : environments_) environment.reset(random_);
}

Segment Rollout::run(PolicyImpl& policy, WeightTag tag) {
  const c10::InferenceMode inference;
  Segment segment;
  segment.tag = tag;
  segment.worker = worker_;
  segment.steps = steps_;
  segment.environments = static_cast<std::uint32_t>(environments_.size());
  const auto batch = static_cast<std::int64_t>(environments_.size());
  const torch::Tensor states = torch::empty({batch, CartPole::kObservationSize});
  const std::size_t row_size = environments_.size() * CartPole::kObservationSize;
  std::uniform_real_distribution<float> uniform(0.0F, 1.0F);

  for (std::uint32_t step = 0; step < steps_; ++step) {
    for (const CartPole& environment : environments_) append(segment.states, environment);
    std::copy_n(segment.states.end() - static_cast<std::ptrdiff_t>(row_size), row_size,
                states.data_ptr<float>());
    const torch::Tensor logits = policy.forward(states).contiguous();
    const float* logit = logits.const_data_ptr<float>();
    for (CartPole& environment : environments_) {
      // With two actions the softmax is a logistic function of the difference.
      const float difference = logit[1] - logit[0];
      const int action = uniform(random_) < 1.0F / (1.0F + std::exp(-difference)) ? 1 : 0;
      const float toward = action == 1 ? difference : -difference;
      logit += CartPole::kActionCount;

      const CartPole::StepResult result = environment.step(action);
      append(segment.next_states, environment);
      segment.actions.push_back(static_cast<std::uint8_t>(action));
      segment.log_probs.push_back(-std::log1p(std::exp(-toward)));
      segment.rewards.push_back(result.reward);
      segment.terminated.push_back(result.terminated ? 1 : 0);
      segment.truncated.push_back(result.truncated ? 1 : 0);
      if (result.terminated || result.truncated) {
        // Every step is rewarded with 1, so the return is the length.
        segment.episode_returns.push_back(static_cast<float>(environment.steps()));
        environment.reset(random_);
      }
    }
  }
  return segment;
}

}  // namespace rl_loop
