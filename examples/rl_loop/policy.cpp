#include "policy.hpp"

#include <cmath>

#include <torch/nn/init.h>

#include "cartpole.hpp"

namespace rl_loop {
namespace {

// Orthogonal weights, a small gain on the policy's last layer: episodes start near uniform actions.
torch::nn::Linear make_layer(std::int64_t inputs, std::int64_t outputs, double gain) {
  torch::nn::Linear layer(inputs, outputs);
  torch::nn::init::orthogonal_(layer->weight, gain);
  torch::nn::init::zeros_(layer->bias);
  return layer;
}

const double kHiddenGain = std::sqrt(2.0);

}  // namespace

PolicyImpl::PolicyImpl(std::int64_t hidden)
    : actor_1_(
          register_module("actor_1", make_layer(CartPole::kObservationSize, hidden, kHiddenGain))),
      actor_2_(register_module("actor_2", make_layer(hidden, hidden, kHiddenGain))),
      actor_out_(register_module("actor_out", make_layer(hidden, CartPole::kActionCount, 0.01))),
      critic_1_(
          register_module("critic_1", make_layer(CartPole::kObservationSize, hidden, kHiddenGain))),
      critic_2_(register_module("critic_2", make_layer(hidden, hidden, kHiddenGain))),
      critic_out_(register_module("critic_out", make_layer(hidden, 1, 1.0))) {}

torch::Tensor PolicyImpl::forward(const torch::Tensor& states) {
  return actor_out_(torch::tanh(actor_2_(torch::tanh(actor_1_(states)))));
}

torch::Tensor PolicyImpl::value(const torch::Tensor& states) {
  return critic_out_(torch::tanh(critic_2_(torch::tanh(critic_1_(states))))).squeeze(-1);
}

std::shared_ptr<PolicyImpl> make_policy() { return std::make_shared<PolicyImpl>(); }

}  // namespace rl_loop
