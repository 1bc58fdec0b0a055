// Style: actor and critic with an optimizer each; the actor alone goes to the worker, trained in
// fp32 and rolled out in bf16. Met in NVIDIA/TorchFort (a policy and critics packed with an
// optimizer each) and amiani/halleytest (SACTrainer: actorOptimizer, critic1Optimizer, ...).
// weightcast.cpp is the same with weightcast.
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>

#include "styles/harness.hpp"
#include "styles/weight_file.hpp"

namespace {

styles::WeightFile weights;

struct MlpImpl : torch::nn::Module {
  explicit MlpImpl(int inputs) {
    body = register_module("body", torch::nn::Linear(inputs, 32));
    head = register_module("head", torch::nn::Linear(32, 1));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(torch::tanh(body(x))); }
  torch::nn::Linear body{nullptr}, head{nullptr};
};
TORCH_MODULE(Mlp);

std::vector<torch::Tensor> in_bf16(const MlpImpl& module) {
  std::vector<torch::Tensor> all;
  for (const auto& p : module.parameters()) all.push_back(p.detach().to(torch::kBFloat16));
  return all;
}

Mlp make_replica() {
  Mlp replica(3);
  replica->to(torch::kBFloat16);
  return replica;
}

// ---- worker: steers; the best action is half the difference of two of the numbers it sees

torch::Tensor play(MlpImpl& actor) {
  const torch::NoGradGuard no_grad;
  const auto seen = torch::rand({32, 3}) * 2 - 1;
  const auto action =
      actor.forward(seen.to(torch::kBFloat16)).to(torch::kFloat32) + 0.5 * torch::randn({32, 1});
  const auto best = 0.5 * (seen.narrow(1, 0, 1) - seen.narrow(1, 1, 1));
  return torch::cat({seen, action, -(action - best).pow(2)}, 1);
}

void work(styles::Loop& loop) {
  Mlp replica = make_replica();
  bool wanted = true;
  while (wanted) {
    const auto version = weights.read(replica->parameters());
    loop.ledger.served(version, replica->parameters());
    wanted = loop.samples.send(play(*replica));
  }
}

// ---- trainer: the critic learns the reward, the actor climbs the critic

double train(styles::Loop& loop) {
  Mlp actor(3);
  Mlp critic(4);
  torch::optim::Adam actor_optimizer(actor->parameters(), torch::optim::AdamOptions(3e-3));
  torch::optim::Adam critic_optimizer(critic->parameters(), torch::optim::AdamOptions(1e-2));
  double mean_reward = -0.5;  // noise alone takes 0.25
  for (int i = 0; i < 400; ++i) {
    const auto version = weights.write(in_bf16(*actor));
    loop.ledger.published(version, in_bf16(*actor));
    const auto samples = loop.samples.receive();
    const auto seen = samples.narrow(1, 0, 3);
    const auto reward = samples.narrow(1, 4, 1);
    for (int j = 0; j < 4; ++j) {
      critic_optimizer.zero_grad();
      (critic->forward(samples.narrow(1, 0, 4)) - reward).pow(2).mean().backward();
      critic_optimizer.step();
    }
    actor_optimizer.zero_grad();
    (-critic->forward(torch::cat({seen, actor->forward(seen)}, 1))).mean().backward();
    actor_optimizer.step();
    mean_reward = 0.95 * mean_reward + 0.05 * reward.mean().item<double>();
  }
  return mean_reward;
}

}  // namespace

int main() {
  torch::manual_seed(1);
  return styles::run("actor_critic", styles::Worker::kProcess, train, work, -0.32);
}
