#pragma once

#include <cstdint>
#include <memory>

#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>

namespace rl_loop {

/// The actor-critic: two separate tanh networks with two hidden layers each.
class PolicyImpl : public torch::nn::Module {
 public:
  explicit PolicyImpl(std::int64_t hidden = 64);

  /// @param states float [batch, 4].
  /// @return logits of the actions, float [batch, 2].
  torch::Tensor forward(const torch::Tensor& states);

  /// @param states float [batch, 4].
  /// @return estimated discounted return, float [batch].
  torch::Tensor value(const torch::Tensor& states);

 private:
  torch::nn::Linear actor_1_, actor_2_, actor_out_;
  torch::nn::Linear critic_1_, critic_2_, critic_out_;
};

[[nodiscard]] std::shared_ptr<PolicyImpl> make_policy();

}  // namespace rl_loop
