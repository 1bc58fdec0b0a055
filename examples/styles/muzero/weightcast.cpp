// Style: a module without forward(), whose clone() throws (it is no Cloneable) and whose parameters
// alias; self-play with what the network says of each position.
// Met in tuero/muzero-cpp (MuzeroNetworkImpl: initial_inference() and recurrent_inference(),
// brought to the actors by checkpoint files). plain.cpp is the same without weightcast.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include <torch/nn/functional.h>
#include <torch/nn/module.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <weightcast/torch.hpp>

#include "styles/harness.hpp"

namespace {

constexpr std::int64_t kStones = 7;  // who takes the last one wins; one to three at a time

struct Inference {
  torch::Tensor value;   // of the player to move, -1 to 1
  torch::Tensor policy;  // logits of the stones that will be left
};

class NetworkImpl : public torch::nn::Module {
 public:
  NetworkImpl() {
    positions_ = register_parameter("positions", 0.5 * torch::randn({kStones + 1, 16}));
    targets_ = register_parameter("targets", positions_);  // the same weights under another name
    value_ = register_parameter("value", 0.5 * torch::randn({16, 1}));
  }
  Inference initial_inference(const torch::Tensor& stones) {
    const auto encoded = positions_.index_select(0, stones);
    return {torch::tanh(encoded.matmul(value_).squeeze(1)), encoded.matmul(targets_.t())};
  }

 private:
  torch::Tensor positions_, targets_, value_;
};

/// What is left after the best move: the position that is worst for the other.
std::int64_t best_move(NetworkImpl& network, std::int64_t stones) {
  const std::int64_t least = std::max<std::int64_t>(0, stones - 3);
  if (least == 0 && stones <= 3) return 0;
  return least + network.initial_inference(torch::arange(least, stones))
                     .value.argmin()
                     .item<std::int64_t>();
}

// ---- worker: games against itself, one move of five at random

torch::Tensor self_play(NetworkImpl& network) {
  const torch::NoGradGuard no_grad;
  std::vector<float> moves;
  for (int game = 0; game < 8; ++game) {
    std::vector<std::int64_t> line{1 + torch::randint(kStones, {1}).item<std::int64_t>()};
    while (line.back() > 0) {
      const auto taken =
          1 + torch::randint(std::min<std::int64_t>(3, line.back()), {1}).item<std::int64_t>();
      const bool is_random = torch::rand({1}).item<float>() < 0.2F;
      line.push_back(is_random ? line.back() - taken : best_move(network, line.back()));
    }
    for (std::size_t i = 0; i + 1 < line.size(); ++i) {
      const bool won = (line.size() - i) % 2 == 0;  // who moved last
      moves.insert(moves.end(), {float(line[i]), float(line[i + 1]), won ? 1.0F : -1.0F});
    }
  }
  return torch::tensor(moves).view({-1, 3});
}

void work(styles::Loop& loop) {
  weightcast::Follower follower([] { return std::make_shared<NetworkImpl>(); },
                                {.policy = "muzero"});
  bool wanted = true;
  while (wanted) {
    auto lease = follower.acquire();
    loop.ledger.served(lease.version().number, lease->parameters());
    wanted = loop.samples.send(self_play(*lease));
  }
}

// ---- trainer: value and policy from the outcomes of games

double train(styles::Loop& loop) {
  const auto network = std::make_shared<NetworkImpl>();
  weightcast::Hooked<torch::optim::SGD> optimizer(network->parameters(),
                                                  torch::optim::SGDOptions(0.1));
  auto publication = weightcast::attach(optimizer, network, {.policy = "muzero", .every = 0});
  for (int i = 0; i < 500; ++i) {
    publication.publish();
    loop.ledger.published(publication.version().number, network->parameters());
    const auto games = loop.samples.receive();
    const auto moves = games.narrow(1, 0, 2).to(torch::kLong);
    const auto won = games.select(1, 2);
    const auto said = network->initial_inference(moves.select(1, 0));
    const auto chosen =
        torch::log_softmax(said.policy, 1).gather(1, moves.narrow(1, 1, 1)).squeeze(1);
    const auto loss = (said.value - won).pow(2).mean() - 0.1 * (chosen * won.clamp(0, 1)).mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
  const torch::NoGradGuard no_grad;
  double right = 0;  // moves that leave a multiple of four, which the other loses
  for (std::int64_t stones = 1; stones <= kStones; ++stones)
    right += stones % 4 != 0 && best_move(*network, stones) % 4 == 0;
  return right / (kStones - kStones / 4);
}

}  // namespace

int main() {
  torch::manual_seed(1);
  return styles::run("muzero", styles::Worker::kProcess, train, work, 0.8);
}
