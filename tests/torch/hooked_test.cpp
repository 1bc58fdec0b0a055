#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>

#include <weightcast/torch/hooked.hpp>

namespace {

using weightcast::Hooked;
using weightcast::detail::StepListener;

// Writes down what it hears, and the first element of a parameter at that moment.
struct StepRecorder final : StepListener {
  explicit StepRecorder(torch::Tensor watched = {}) : watched_(std::move(watched)) {}
  void before_step() noexcept override { note("before"); }
  void after_step() noexcept override { note("after"); }
  void step_failed(const char* why) noexcept override { note(std::string("failed: ") + why); }
  void note(std::string what) {
    heard.push_back(std::move(what));
    if (watched_.defined()) values.push_back(watched_.flatten()[0].item<float>());
  }
  std::vector<std::string> heard;
  std::vector<float> values;
  torch::Tensor watched_;
};

const std::vector<std::string> kOneStep{"before", "after"};

torch::nn::Linear make_net() {
  torch::nn::Linear net(3, 2);
  for (auto& p : net->parameters()) p.mutable_grad() = torch::ones_like(p);
  return net;
}

struct ThrowingSgd : torch::optim::SGD {
  using SGD::SGD;
  torch::Tensor step(LossClosure) override { throw std::runtime_error("loss is NaN"); }
};

TEST(Hooked, CallsBeforeAndAfterAStepThroughTheBaseClass) {
  auto net = make_net();
  Hooked<torch::optim::SGD> optimizer(net->parameters(), torch::optim::SGDOptions(0.5));
  const auto listener = std::make_shared<StepRecorder>(net->weight);
  optimizer.add_listener(listener);
  const float start = net->weight.flatten()[0].item<float>();

  static_cast<torch::optim::Optimizer&>(optimizer).step();

  EXPECT_EQ(listener->heard, kOneStep);
  EXPECT_EQ(listener->values, (std::vector<float>{start, start - 0.5f}));
}

TEST(Hooked, RunsClosuresBetweenTheHooksAndReturnsTheLoss) {
  auto net = make_net();
  const auto closure_of = [&](torch::optim::Optimizer& o, StepRecorder& r) {
    return [&net, &o, &r] {
      r.note("closure");
      o.zero_grad();
      auto loss = net(torch::ones({1, 3})).pow(2).sum();
      loss.backward();
      return loss;
    };
  };
  Hooked<torch::optim::Adam> adam(net->parameters(), torch::optim::AdamOptions(1e-3));
  Hooked<torch::optim::LBFGS> lbfgs(net->parameters(), torch::optim::LBFGSOptions(0.1).max_iter(3));
  for (torch::optim::Optimizer* optimizer : {static_cast<torch::optim::Optimizer*>(&adam),
                                             static_cast<torch::optim::Optimizer*>(&lbfgs)}) {
    const auto listener = std::make_shared<StepRecorder>();
    dynamic_cast<weightcast::detail::HookPoint&>(*optimizer).add_listener(listener);

    const torch::Tensor loss = optimizer->step(closure_of(*optimizer, *listener));

    EXPECT_TRUE(loss.defined());
    ASSERT_GE(listener->heard.size(), 3u);
    EXPECT_EQ(listener->heard.front(), "before");
    EXPECT_EQ(listener->heard[1], "closure");
    EXPECT_EQ(listener->heard.back(), "after");
  }
}

TEST(Hooked, TellsOfAStepThatThrowsAndRethrows) {
  auto net = make_net();
  Hooked<ThrowingSgd> optimizer(net->parameters(), torch::optim::SGDOptions(0.5));
  const auto listener = std::make_shared<StepRecorder>();
  optimizer.add_listener(listener);

  EXPECT_THROW(optimizer.step(), std::runtime_error);

  EXPECT_EQ(listener->heard, (std::vector<std::string>{"before", "failed: loss is NaN"}));
}

TEST(Hooked, TellsOfAClosureThatThrows) {
  auto net = make_net();
  Hooked<torch::optim::Adam> optimizer(net->parameters());
  const auto listener = std::make_shared<StepRecorder>();
  optimizer.add_listener(listener);

  EXPECT_THROW(optimizer.step([]() -> torch::Tensor { throw 7; }), int);

  ASSERT_EQ(listener->heard.size(), 2u);
  EXPECT_EQ(listener->heard[1].rfind("failed", 0), 0u);
}

TEST(Hooked, TakesItsListenersAlongWhenMoved) {
  auto net = make_net();
  Hooked<torch::optim::SGD> first(net->parameters(), torch::optim::SGDOptions(0.5));
  const auto listener = std::make_shared<StepRecorder>();
  first.add_listener(listener);

  Hooked<torch::optim::SGD> second(std::move(first));
  second.step();
  EXPECT_EQ(listener->heard, kOneStep);

  Hooked<torch::optim::SGD> third(net->parameters(), torch::optim::SGDOptions(0.1));
  third = std::move(second);
  third.step();
  EXPECT_EQ(listener->heard.size(), 4u);
}

TEST(Hooked, StaysAttachedWhenANewOptimizerIsAssigned) {
  auto net = make_net();
  Hooked<torch::optim::SGD> optimizer(net->parameters(), torch::optim::SGDOptions(0.5));
  const auto listener = std::make_shared<StepRecorder>();
  optimizer.add_listener(listener);

  optimizer = Hooked<torch::optim::SGD>(net->parameters(), torch::optim::SGDOptions(0.1));
  optimizer.step();

  EXPECT_EQ(listener->heard, kOneStep);
}

TEST(Hooked, ForgetsListenersThatAreGoneAndMayGoBeforeThem) {
  auto net = make_net();
  auto optimizer = std::make_unique<Hooked<torch::optim::SGD>>(net->parameters(), torch::optim::SGDOptions(0.5));
  auto gone = std::make_shared<StepRecorder>();
  const auto stays = std::make_shared<StepRecorder>();
  optimizer->add_listener(gone);
  optimizer->add_listener(stays);
  gone.reset();

  optimizer->step();
  optimizer.reset();

  EXPECT_EQ(stays->heard, kOneStep);
}

TEST(Hooked, SavesAndLoadsAsItsBase) {
  auto net = make_net();
  Hooked<torch::optim::Adam> optimizer(net->parameters(), torch::optim::AdamOptions(1e-3));
  optimizer.step();
  optimizer.step();
  std::stringstream stream;
  torch::save(optimizer, stream);

  torch::optim::Adam plain(net->parameters(), torch::optim::AdamOptions(5e-2));
  torch::load(plain, stream);
  std::stringstream back;
  torch::save(plain, back);
  Hooked<torch::optim::Adam> again(net->parameters());
  const auto listener = std::make_shared<StepRecorder>();
  again.add_listener(listener);
  torch::load(again, back);

  const void* key = net->weight.unsafeGetTensorImpl();
  const auto& saved = static_cast<torch::optim::AdamParamState&>(*optimizer.state().at(const_cast<void*>(key)));
  const auto& loaded = static_cast<torch::optim::AdamParamState&>(*again.state().at(const_cast<void*>(key)));
  EXPECT_EQ(loaded.step(), 2);
  EXPECT_TRUE(loaded.exp_avg().equal(saved.exp_avg()));
  again.step();
  EXPECT_EQ(listener->heard, kOneStep);
}

}  // namespace
