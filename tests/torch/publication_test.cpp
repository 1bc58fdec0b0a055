// Trainer and followers in one process, over the real core: every lease is the trainer, bit for bit,
// as it was at the publish point of the lease's version.
#include <cstdint>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include <weightcast/torch.hpp>

#include "torch/job.hpp"
#include "torch/policy.hpp"

namespace {

using weightcast::Code;
using weightcast::Follower;
using weightcast::Hooked;
using weightcast::NamedTensor;
using weightcast::PointResult;
using weightcast::Publication;
using weightcast_test::clone_of;
using weightcast_test::expect_weights;
using weightcast_test::Job;
using weightcast_test::kLong;
using weightcast_test::make_replica;
using weightcast_test::Policy;
using weightcast_test::Weights;

// Clones the module at each publish point that was captured. Added to the optimizer behind the
// publication, so that it runs right after it.
struct Recorder final : weightcast::detail::StepListener {
  Recorder(Publication& publication, Policy module) : publication_(publication), module_(std::move(module)) {}
  void before_step() noexcept override {}
  void after_step() noexcept override { note(); }
  void step_failed(const char*) noexcept override { ++failed; }
  void note() {
    const std::uint64_t number = publication_.version().number;
    if (versions.count(number) == 0) versions[number] = clone_of(module_);
    if (versions.size() > kKept) versions.erase(versions.begin());
  }

  static constexpr std::size_t kKept = 32;  // more than may lie between flushes
  std::map<std::uint64_t, Weights> versions;
  int failed = 0;

 private:
  Publication& publication_;
  Policy module_;
};

struct FickleAdam : torch::optim::Adam {
  using Adam::Adam;
  torch::Tensor step(LossClosure closure) override {
    if (!fail) return Adam::step(std::move(closure));
    // Half a step, as a closure that throws in the middle of LBFGS leaves it.
    const torch::NoGradGuard no_grad;
    param_groups().front().params().front().fill_(-1e9);
    throw std::runtime_error("out of luck");
  }
  bool fail = false;
};

template <class Optimizer>
void train_step(Policy& policy, Optimizer& optimizer) {
  optimizer.zero_grad();
  policy->forward(torch::randn({8, 4})).pow(2).sum().backward();
  torch::nn::utils::clip_grad_norm_(policy->parameters(), 0.5);
  optimizer.step();
}

TEST(Publication, EveryLeaseIsTheTrainerAtItsPublishPointWhateverTheTrainerDoes) {
  torch::manual_seed(7);
  const Job job;
  Policy policy, average;
  Hooked<FickleAdam> optimizer(policy->parameters(), torch::optim::AdamOptions(1e-2));
  auto options = job.publisher();
  options.inline_bytes = 0;  // all that is not copied within the publish point is copied beside training
  auto publication = weightcast::attach(optimizer, policy, {.publisher = options});
  const auto recorder = std::make_shared<Recorder>(publication, policy);
  optimizer.add_listener(recorder);
  Follower follower(make_replica, {.subscriber = job.subscriber()});
  std::map<std::uint64_t, int> seen;
  const auto look = [&] {
    const auto lease = follower.acquire(kLong);
    ++seen[lease.version().number];
    ASSERT_EQ(recorder->versions.count(lease.version().number), 1u) << lease.version().number;
    expect_weights(*lease, recorder->versions.at(lease.version().number));
  };

  for (int i = 0; i < 60; ++i) {
    optimizer.fail = i % 20 == 19;
    std::stringstream checkpoint;
    if (i % 15 == 13) torch::save(policy, checkpoint);
    if (optimizer.fail) {
      EXPECT_THROW(train_step(policy, optimizer), std::runtime_error);
      torch::NoGradGuard no_grad;
      policy->input->weight.uniform_(-1, 1);
    } else {
      train_step(policy, optimizer);
      for (int k = 0; k < i % 4; ++k) optimizer.step();  // at once, with the same gradients
    }
    // While the copies of the point may be under way: what the parameters' names stand for changes,
    // and so do running statistics.
    if (i % 15 == 10) {
      policy->to(torch::kDouble);
      policy->to(torch::kFloat);
      policy->norm->num_batches_tracked.set_data(policy->norm->num_batches_tracked.to(torch::kLong));
    }
    if (i % 15 == 13) torch::load(policy, checkpoint);
    policy->forward(torch::randn({8, 4}));
    {
      const torch::NoGradGuard no_grad;
      const auto from = policy->parameters();
      auto to = average->parameters();
      for (std::size_t k = 0; k < to.size(); ++k) to[k].lerp_(from[k], 0.1);
    }
    if (i % 6 == 5) {
      const auto verdict = publication.flush(kLong);
      ASSERT_TRUE(verdict) << verdict.status().to_string();
      recorder->note();
      ASSERT_TRUE(follower.wait_for(verdict->version.number, kLong));
    }
    if (i >= 5) look();
  }

  EXPECT_GE(seen.size(), 10u);
  EXPECT_EQ(recorder->failed, 3);
  const auto status = publication.status();
  EXPECT_GE(status.captured, 10u);
  EXPECT_EQ(follower.status().failed, 0u) << follower.status().last_failure;
}

TEST(Publication, FlipServesTheSameBits) {
  const Job job;
  Policy policy;
  Hooked<torch::optim::SGD> optimizer(policy->parameters(), torch::optim::SGDOptions(0.1));
  auto publication = weightcast::attach(optimizer, policy, {.publisher = job.publisher()});
  auto options = job.subscriber();
  options.activation = weightcast::Activation::kFlip;
  Follower follower(make_replica, {.subscriber = options});

  for (int i = 0; i < 5; ++i) {
    train_step(policy, optimizer);
    const auto verdict = publication.flush(kLong);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    ASSERT_TRUE(follower.wait_for(verdict->version.number, kLong));
    const auto lease = follower.acquire(kLong);
    expect_weights(*lease, clone_of(policy));
  }
}

TEST(Publication, CastsToTheDTypeOfRollout) {
  const Job job;
  Policy policy;
  Hooked<torch::optim::Adam> optimizer(policy->parameters());
  auto publication =
      weightcast::attach(optimizer, policy, {.dtype = torch::kBFloat16, .publisher = job.publisher()});
  Follower follower(
      [] {
        auto replica = make_replica();
        weightcast::cast_floating(replica, torch::kBFloat16);
        return replica;
      },
      {.subscriber = job.subscriber()});

  train_step(policy, optimizer);
  const auto verdict = publication.flush(kLong);
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  ASSERT_TRUE(follower.wait_for(verdict->version.number, kLong));

  const auto lease = follower.acquire(kLong);
  Weights want = clone_of(policy);
  for (auto& [name, tensor] : want) {
    if (tensor.is_floating_point()) tensor = tensor.to(torch::kBFloat16);
  }
  expect_weights(*lease, want);
}

TEST(Publication, PublishesAfterTheLastOfSeveralOptimizersEveryNthTime) {
  const Job job;
  Policy policy;
  Hooked<torch::optim::SGD> body(policy->wide->parameters(), torch::optim::SGDOptions(0.1));
  Hooked<torch::optim::Adam> head(policy->output->parameters());
  auto publication =
      weightcast::attach({&body, &head}, policy, {.every = 3, .publisher = job.publisher()});

  for (int i = 0; i < 2; ++i) {
    policy->forward(torch::randn({8, 4})).sum().backward();
    body.step();
    body.step();
    head.step();
  }
  EXPECT_EQ(publication.status().next_point, 1u);
  body.step();
  EXPECT_EQ(publication.status().next_point, 1u);
  head.step();
  EXPECT_EQ(publication.status().next_point, 2u);
}

TEST(Publication, AFailedStepIsAPointThatIsVoid) {
  const Job job;
  Policy policy;
  Hooked<FickleAdam> optimizer(policy->parameters());
  auto publication = weightcast::attach(optimizer, policy, {.publisher = job.publisher()});
  optimizer.fail = true;

  EXPECT_THROW(optimizer.step(), std::runtime_error);

  const auto status = publication.status();
  EXPECT_EQ(status.next_point, 2u);
  EXPECT_EQ(status.captured, 0u);
  EXPECT_TRUE(publication.version().is_none());
}

TEST(Publication, WorksWithoutAnOptimizerOfOurs) {
  const Job job;
  Policy policy;
  torch::optim::Adam optimizer(policy->parameters());
  auto publication = weightcast::attach(policy, {.publisher = job.publisher()});
  Follower follower(make_replica, {.subscriber = job.subscriber()});

  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(publication.fence());
    train_step(policy, optimizer);
    publication.publish();
  }
  const auto verdict = publication.flush(kLong);

  ASSERT_TRUE(verdict) << verdict.status().to_string();
  EXPECT_EQ(publication.version(), verdict->version);
  ASSERT_TRUE(follower.wait_for(verdict->version.number, kLong));
  expect_weights(*follower.acquire(kLong), clone_of(policy));
}

TEST(Publication, FlushPublishesWhatTheStepsSinceTheLastPointMade) {
  const Job job;
  Policy policy;
  Hooked<torch::optim::SGD> optimizer(policy->parameters(), torch::optim::SGDOptions(0.1));
  auto publication = weightcast::attach(optimizer, policy, {.every = 4, .publisher = job.publisher()});
  Follower follower(make_replica, {.subscriber = job.subscriber()});

  for (int i = 0; i < 6; ++i) train_step(policy, optimizer);
  const auto verdict = publication.flush(kLong);
  const auto again = publication.flush(kLong);

  ASSERT_TRUE(verdict) << verdict.status().to_string();
  ASSERT_TRUE(again) << again.status().to_string();
  EXPECT_EQ(again->version, verdict->version) << "nothing was written in between";
  ASSERT_TRUE(follower.wait_for(verdict->version.number, kLong));
  expect_weights(*follower.acquire(kLong), clone_of(policy));
}

TEST(Publication, EveryZeroLeavesThePointsToPublish) {
  const Job job;
  Policy policy;
  Hooked<torch::optim::Adam> optimizer(policy->parameters());
  auto publication = weightcast::attach(optimizer, policy, {.every = 0, .publisher = job.publisher()});

  train_step(policy, optimizer);
  EXPECT_EQ(publication.status().next_point, 1u);
  const PointResult result = publication.publish();

  EXPECT_EQ(result.point, 1u);
  EXPECT_EQ(publication.status().next_point, 2u);
}

TEST(Publication, RefusesAnUnhookedOptimizerAndSaysWhatToWrite) {
  const Job job;
  Policy policy;
  torch::optim::Adam optimizer(policy->parameters());
  try {
    (void)weightcast::attach(optimizer, policy, {.publisher = job.publisher()});
    FAIL() << "expected an Error";
  } catch (const weightcast::Error& e) {
    EXPECT_EQ(e.code(), Code::kInvalid);
    EXPECT_NE(std::string(e.what()).find("weightcast::Hooked<torch::optim::Adam>"), std::string::npos) << e.what();
  }
}

TEST(Publication, RefusesBadOptionsSourcesAndLists) {
  const Job job;
  Policy policy;
  Hooked<torch::optim::Adam> optimizer(policy->parameters());
  const auto message_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const weightcast::Error& e) {
      return e.what();
    }
    return "no error";
  };
  const auto has = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };

  EXPECT_PRED2(has, message_of([&] {
    (void)weightcast::attach(optimizer, policy, {.include = {"wdie.*"}, .publisher = job.publisher()});
  }), "'wdie.*'");
  EXPECT_PRED2(has, message_of([&] {
    (void)weightcast::attach({&optimizer, &optimizer}, policy, {.publisher = job.publisher()});
  }), "twice");
  EXPECT_PRED2(has, message_of([&] {
    (void)weightcast::attach(policy, {.policy = "no/such name", .publisher = job.publisher()});
  }), "no/such name");
  EXPECT_PRED2(has, message_of([&] {
    (void)weightcast::attach(policy, {.extra_tensors = {{"phase", torch::ones({2}, torch::kComplexFloat)}},
                                      .publisher = job.publisher()});
  }), "'phase'");
}

TEST(Publication, MovesDetachesAndSurvivesItsOptimizer) {
  const Job job;
  Policy policy;
  auto optimizer = std::make_unique<Hooked<torch::optim::SGD>>(policy->parameters(), torch::optim::SGDOptions(0.1));
  Publication publication;
  {
    auto made = weightcast::attach(*optimizer, policy, {.publisher = job.publisher()});
    publication = std::move(made);
    EXPECT_FALSE(made);  // NOLINT(bugprone-use-after-move)
  }
  train_step(policy, *optimizer);
  EXPECT_EQ(publication.status().next_point, 2u);

  Hooked<torch::optim::SGD> moved(std::move(*optimizer));
  optimizer.reset();
  train_step(policy, moved);
  EXPECT_EQ(publication.status().next_point, 3u);

  publication.detach();
  train_step(policy, moved);
  EXPECT_FALSE(publication);
  EXPECT_EQ(publication.publish().kind, PointResult::Kind::kVoid);
  EXPECT_EQ(publication.flush(kLong).status().code(), Code::kUnavailable);

  { auto again = weightcast::attach(moved, policy, {.publisher = job.publisher()}); }
  train_step(policy, moved);
}

TEST(Publication, RebindsToAModuleThatWasBuiltAnew) {
  const Job job;
  auto policy = std::make_unique<Policy>();
  auto publication = weightcast::attach(*policy, {.publisher = job.publisher()});
  policy = std::make_unique<Policy>();

  publication.rebind(*policy);
  EXPECT_THROW(publication.rebind(Policy(nullptr)), weightcast::Error);
  const auto verdict = publication.flush(kLong);

  ASSERT_TRUE(verdict) << verdict.status().to_string();
  Follower follower(make_replica, {.subscriber = job.subscriber()});
  expect_weights(*follower.acquire(kLong), clone_of(*policy));
}

}  // namespace
