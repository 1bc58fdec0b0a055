// Style: std::shared_ptr<Optimizer> from a factory; the model a wrapper that is no torch Module and
// holds a jit::Module; a normalizer of observations beside it.
// Met in NVIDIA/TorchFort (ModelWrapper, shared_ptr<torch::optim::Optimizer> in its PolicyPack,
// running normalizers). plain.cpp is the same without weightcast.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/jit.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <weightcast/torch.hpp>

#include "styles/harness.hpp"

namespace {

class ModelWrapper {
 public:
  ModelWrapper() {
    net_.register_parameter("body", torch::randn({4, 16}) / 2, false);
    net_.register_parameter("head", torch::randn({16, 2}) / 4, false);
    net_.define("def forward(self, x):\n    return torch.tanh(x @ self.body) @ self.head\n");
    for (const auto& p : net_.parameters()) p.requires_grad_();
  }
  auto named_parameters() const { return net_.named_parameters(); }
  std::vector<torch::Tensor> parameters() const {
    std::vector<torch::Tensor> all;
    for (const auto& p : net_.parameters()) all.push_back(p);
    return all;
  }
  torch::Tensor forward(const torch::Tensor& x) { return net_.forward({x}).toTensor(); }

 private:
  torch::jit::Module net_{"Net"};
};

struct Normalizer {
  torch::Tensor mean = torch::zeros({4}), scale = torch::ones({4});
  torch::Tensor operator()(const torch::Tensor& x) const { return (x - mean) / scale; }
  void update(const torch::Tensor& x) {
    mean.lerp_(x.mean(0), 0.1);
    scale.lerp_(x.std(0), 0.1);
  }
};

std::vector<torch::Tensor> together(const ModelWrapper& model, const Normalizer& normalizer) {
  auto all = model.parameters();
  all.insert(all.end(), {normalizer.mean, normalizer.scale});
  return all;
}

// ---- worker: what it sees is far from zero, and the right answer is the sign of the distance

torch::Tensor play(ModelWrapper& model, const Normalizer& normalizer) {
  const torch::NoGradGuard no_grad;
  const auto deviation = torch::randn({32, 4});
  const auto seen = deviation * 3 + 20;
  const auto action = torch::softmax(model.forward(normalizer(seen)), 1).multinomial(1);
  const auto right = (deviation.narrow(1, 0, 1) > 0).to(torch::kLong);
  return torch::cat({seen, action.to(torch::kFloat32), action.eq(right).to(torch::kFloat32)}, 1);
}

void work(styles::Loop& loop) {
  weightcast::Follower follower([] { return std::make_unique<ModelWrapper>(); },
                                {.policy = "factory"});
  bool wanted = true;
  while (wanted) {
    auto lease = follower.acquire();
    const Normalizer normalizer{lease.tensor("obs.mean"), lease.tensor("obs.scale")};
    loop.ledger.served(lease.version().number, together(*lease, normalizer));
    wanted = loop.samples.send(play(*lease, normalizer));
  }
}

// ---- trainer: REINFORCE

std::shared_ptr<torch::optim::Optimizer> make_optimizer(const std::string& kind,
                                                        std::vector<torch::Tensor> parameters) {
  if (kind == "sgd")
    return std::make_shared<weightcast::Hooked<torch::optim::SGD>>(std::move(parameters), 0.1);
  return std::make_shared<weightcast::Hooked<torch::optim::Adam>>(std::move(parameters), 1e-2);
}

double train(styles::Loop& loop) {
  ModelWrapper model;
  Normalizer normalizer;
  const auto optimizer = make_optimizer("adam", model.parameters());
  auto publication = weightcast::attach(
      *optimizer, model,
      {.policy = "factory",
       .every = 0,
       .extra_tensors = {{"obs.mean", normalizer.mean}, {"obs.scale", normalizer.scale}}});
  double mean_reward = 0.5;
  for (int i = 0; i < 300; ++i) {
    publication.publish();
    loop.ledger.published(publication.version().number, together(model, normalizer));
    const auto samples = loop.samples.receive();
    const auto action = samples.narrow(1, 4, 1).to(torch::kLong);
    const auto reward = samples.narrow(1, 5, 1);
    normalizer.update(samples.narrow(1, 0, 4));
    const auto scores = model.forward(normalizer(samples.narrow(1, 0, 4)));
    optimizer->zero_grad();
    (-torch::log_softmax(scores, 1).gather(1, action) * (reward - 0.5)).mean().backward();
    optimizer->step();
    mean_reward = 0.9 * mean_reward + 0.1 * reward.mean().item<double>();
  }
  return mean_reward;
}

}  // namespace

int main() {
  torch::manual_seed(1);
  return styles::run("factory", styles::Worker::kProcess, train, work, 0.8);
}
