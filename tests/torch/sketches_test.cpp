// Four kinds of user, written as they would write it: what compiles and runs here is the API's shape.
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/jit.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <weightcast/torch.hpp>

#include "torch/job.hpp"

// Their names are as users choose them.
namespace weightcast_sketches {

using weightcast_test::Job;
using weightcast_test::kLong;

struct PolicyImpl : torch::nn::Module {
  PolicyImpl(int inputs, int actions) {
    body = register_module("body", torch::nn::Linear(inputs, 16));
    head = register_module("head", torch::nn::Linear(16, actions));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(torch::tanh(body(x))); }
  torch::nn::Linear body{nullptr}, head{nullptr};
};
TORCH_MODULE(Policy);

// (a) An optimizer by value in a movable class; trainer and replicas in one process.
class Trainer {
 public:
  explicit Trainer(const Job& job)
      : policy_(4, 2),
        optimizer_(policy_->parameters(), torch::optim::AdamOptions(1e-2)),
        publication_(weightcast::attach(optimizer_, policy_, {.policy = "actor", .publisher = job.publisher()})) {}

  void iterate() {
    optimizer_.zero_grad();
    policy_->forward(torch::ones({8, 4})).pow(2).sum().backward();
    optimizer_.step();
  }
  weightcast::Version finish() { return publication_.flush(kLong).value_or_throw().version; }
  torch::Tensor predict(const torch::Tensor& x) { return policy_->forward(x); }

 private:
  Policy policy_;
  weightcast::Hooked<torch::optim::Adam> optimizer_;
  weightcast::Publication publication_;
};

TEST(Sketch, OptimizerByValueInAMovableClass) {
  const Job job;
  std::vector<Trainer> trainers;  // moves it about
  trainers.push_back(Trainer(job));
  Trainer trainer = std::move(trainers.back());
  weightcast::Follower follower([] { return Policy(4, 2); }, {.policy = "actor", .subscriber = job.subscriber()});

  for (int i = 0; i < 5; ++i) trainer.iterate();
  const auto version = trainer.finish();
  ASSERT_TRUE(follower.wait_for(version.number, kLong));
  const auto lease = follower.acquire(kLong);

  const auto x = torch::randn({3, 4});
  EXPECT_EQ(lease.version(), version);
  EXPECT_TRUE(lease->forward(x).equal(trainer.predict(x)));
}

// (b) An optimizer from a factory behind a shared_ptr of the base class; the model a wrapper around a
// jit::Module that is no Module itself; an observation normalizer beside it.
struct ScriptedModel {
  ScriptedModel() : net("Net") {
    net.register_parameter("weight", torch::randn({4, 2}), false);
    net.register_buffer("scale", torch::ones({2}));
    net.define("def forward(self, x):\n    return (x @ self.weight) * self.scale\n");
    for (const auto& p : net.parameters()) p.requires_grad_();
  }
  auto named_parameters() const { return net.named_parameters(); }
  auto named_buffers() const { return net.named_buffers(); }
  torch::Tensor act(const torch::Tensor& x) { return net.forward({x}).toTensor(); }

  torch::jit::Module net;
};

std::shared_ptr<torch::optim::Optimizer> make_optimizer(const std::string& kind, std::vector<torch::Tensor> params) {
  if (kind == "sgd") {
    return std::make_shared<weightcast::Hooked<torch::optim::SGD>>(std::move(params), torch::optim::SGDOptions(0.1));
  }
  return std::make_shared<weightcast::Hooked<torch::optim::Adam>>(std::move(params));
}

TEST(Sketch, OptimizerFromAFactoryAndAModelThatIsNoModule) {
  const Job job;
  ScriptedModel model;
  const auto mean = torch::zeros({4});
  std::vector<torch::Tensor> params;
  for (const auto& p : model.net.parameters()) params.push_back(p);
  const auto optimizer = make_optimizer("sgd", params);
  auto publication = weightcast::attach(
      *optimizer, model, {.extra_tensors = {{"obs.mean", mean}}, .publisher = job.publisher()});
  weightcast::Follower follower([] { return std::make_unique<ScriptedModel>(); }, {.subscriber = job.subscriber()});
  weightcast::Follower<torch::jit::Module> plain([] { return ScriptedModel().net; },
                                                 {.subscriber = job.subscriber()});

  for (int i = 0; i < 3; ++i) {
    mean.add_(0.25);  // at any time: extra tensors are copied within the publish point
    optimizer->zero_grad();
    model.act(torch::ones({2, 4}) - mean).sum().backward();
    optimizer->step();
  }
  const auto number = publication.flush(kLong).value_or_throw().version.number;
  ASSERT_TRUE(follower.wait_for(number, kLong));
  ASSERT_TRUE(plain.wait_for(number, kLong));
  const auto lease = follower.acquire(kLong);
  auto bare = plain.acquire(kLong);

  const auto x = torch::randn({3, 4});
  EXPECT_TRUE(lease.tensor("obs.mean").equal(mean));
  EXPECT_TRUE(lease->act(x - lease.tensor("obs.mean")).equal(model.act(x - mean)));
  EXPECT_TRUE(bare->forward({x}).toTensor().equal(model.act(x)));
}

// (c) A module without forward(), whose clone() throws and whose parameters alias.
struct TwoHeadedImpl : torch::nn::Module {
  TwoHeadedImpl() {
    table = register_parameter("table", torch::randn({6, 3}));
    output = register_parameter("output", table);
    rows = register_parameter("rows", table.detach().slice(0, 2, 5), false);  // overlaps, is not the same
  }
  std::shared_ptr<torch::nn::Module> clone(const std::optional<torch::Device>&) const override {
    throw std::logic_error("not cloneable");
  }
  torch::Tensor score(const torch::Tensor& ids) { return table.index_select(0, ids).matmul(output.t()); }
  torch::Tensor table, output, rows;
};

TEST(Sketch, AliasedParametersWithoutForwardOrClone) {
  const Job job;
  const auto model = std::make_shared<TwoHeadedImpl>();
  weightcast::Hooked<torch::optim::SGD> optimizer(std::vector<torch::Tensor>{model->table},
                                                  torch::optim::SGDOptions(0.1));
  auto publication = weightcast::attach(optimizer, model, {.publisher = job.publisher()});
  weightcast::Follower follower([] { return std::make_shared<TwoHeadedImpl>(); }, {.subscriber = job.subscriber()});

  const auto ids = torch::tensor({0, 3, 5});
  model->score(ids).sum().backward();
  optimizer.step();
  const auto number = publication.flush(kLong).value_or_throw().version.number;
  ASSERT_TRUE(follower.wait_for(number, kLong));
  const auto lease = follower.acquire(kLong);

  EXPECT_TRUE(lease->score(ids).equal(model->score(ids)));
  EXPECT_TRUE(lease->output.is_alias_of(lease->table));
  EXPECT_TRUE(lease->rows.equal(model->table.slice(0, 2, 5)));
}

// (d) Actor and critic with an optimizer each; the actor alone is published, fp32 in training and
// bf16 in rollout.
struct ActorCriticImpl : torch::nn::Module {
  ActorCriticImpl() {
    actor = register_module("actor", Policy(4, 2));
    critic = register_module("critic", Policy(4, 1));
  }
  Policy actor{nullptr}, critic{nullptr};
};
TORCH_MODULE(ActorCritic);

TEST(Sketch, OnlyTheActorInAnotherPrecision) {
  const Job job;
  ActorCritic agent;
  weightcast::Hooked<torch::optim::Adam> actor_optimizer(agent->actor->parameters());
  torch::optim::Adam critic_optimizer(agent->critic->parameters());
  auto publication = weightcast::attach(
      actor_optimizer, agent->actor,
      {.policy = "actor", .dtype = torch::kBFloat16, .every = 4, .publisher = job.publisher()});
  // The same by name out of the whole, which keeps the prefix "actor." in the names.
  auto whole = weightcast::attach(
      agent, {.policy = "by-name", .include = {"actor.*"}, .dtype = torch::kBFloat16, .publisher = job.publisher()});
  weightcast::Follower follower(
      [] {
        Policy replica(4, 2);
        weightcast::cast_floating(replica, torch::kBFloat16);
        replica->eval();
        return replica;
      },
      {.policy = "actor", .subscriber = job.subscriber()});

  for (int i = 0; i < 8; ++i) {
    const auto x = torch::randn({8, 4});
    critic_optimizer.zero_grad();
    actor_optimizer.zero_grad();
    (agent->critic->forward(x).pow(2).sum() + agent->actor->forward(x).pow(2).sum()).backward();
    critic_optimizer.step();
    ASSERT_TRUE(whole.fence());
    actor_optimizer.step();
  }
  const auto number = publication.flush(kLong).value_or_throw().version.number;
  ASSERT_TRUE(whole.flush(kLong));
  ASSERT_TRUE(follower.wait_for(number, kLong));
  const auto lease = follower.acquire(kLong);

  EXPECT_TRUE(lease->head->weight.equal(agent->actor->head->weight.to(torch::kBFloat16)));
  EXPECT_EQ(lease.image().tensors().size(), 4u);
  EXPECT_EQ(lease->forward(torch::ones({1, 4}, torch::kBFloat16)).scalar_type(), torch::kBFloat16);
}

}  // namespace weightcast_sketches
