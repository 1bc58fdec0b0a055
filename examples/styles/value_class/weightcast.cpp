// Style: the optimizer by value in a class that is moved about; trainer and replicas in one
// process. Met in tuero/muzero-cpp (class VPRNetModel: move-only, with its module and its Adam as
// members). plain.cpp is the same without weightcast.
#include <utility>
#include <vector>

#include <torch/nn/functional.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>

#include <weightcast/torch.hpp>

#include "styles/harness.hpp"

namespace {

struct PolicyImpl : torch::nn::Module {
  PolicyImpl() {
    body = register_module("body", torch::nn::Linear(4, 32));
    head = register_module("head", torch::nn::Linear(32, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(torch::tanh(body(x))); }
  torch::nn::Linear body{nullptr}, head{nullptr};
};
TORCH_MODULE(Policy);

// ---- worker: one step of a game, whose right answer is the sign of the first two numbers' sum

torch::Tensor play(PolicyImpl& policy) {
  const torch::NoGradGuard no_grad;
  const auto seen = torch::randn({32, 4});
  const auto action = torch::softmax(policy.forward(seen), 1).multinomial(1);
  const auto right = (seen.narrow(1, 0, 2).sum(1, true) > 0).to(torch::kLong);
  return torch::cat({seen, action.to(torch::kFloat32), action.eq(right).to(torch::kFloat32)}, 1);
}

void work(styles::Loop& loop) {
  weightcast::Follower follower([] { return Policy(); }, {.policy = "value-class"});
  bool wanted = true;
  while (wanted) {
    auto lease = follower.acquire();
    loop.ledger.served(lease.version().number, lease->parameters());
    wanted = loop.samples.send(play(*lease));
  }
}

// ---- trainer: REINFORCE

class Trainer {
 public:
  Trainer()
      : optimizer_(policy_->parameters(), torch::optim::AdamOptions(1e-2)),
        publication_(
            weightcast::attach(optimizer_, policy_, {.policy = "value-class", .every = 0})) {}

  void publish(styles::Ledger& ledger) {
    publication_.publish();
    ledger.published(publication_.version().number, policy_->parameters());
  }

  double learn(const torch::Tensor& samples) {
    const auto action = samples.narrow(1, 4, 1).to(torch::kLong);
    const auto reward = samples.narrow(1, 5, 1);
    const auto chosen =
        torch::log_softmax(policy_->forward(samples.narrow(1, 0, 4)), 1).gather(1, action);
    optimizer_.zero_grad();
    (-chosen * (reward - 0.5)).mean().backward();
    optimizer_.step();
    return reward.mean().item<double>();
  }

 private:
  Policy policy_;
  weightcast::Hooked<torch::optim::Adam> optimizer_;
  weightcast::Publication publication_;
};

double train(styles::Loop& loop) {
  std::vector<Trainer> trainers;  // moves it about
  trainers.push_back(Trainer());
  Trainer trainer = std::move(trainers.back());
  double reward = 0.5;
  for (int i = 0; i < 200; ++i) {
    trainer.publish(loop.ledger);
    reward = 0.9 * reward + 0.1 * trainer.learn(loop.samples.receive());
  }
  return reward;
}

}  // namespace

int main() {
  torch::manual_seed(1);
  return styles::run("value_class", styles::Worker::kThread, train, work, 0.8);
}
