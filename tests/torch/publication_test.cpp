// Trainer and followers in one process, over the real core: every lease is the trainer, bit for bit,
// as it was at the publish point of the lease's version.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include <weightcast/torch.hpp>

#include "torch/job.hpp"

namespace {

using weightcast::Code;
using weightcast::Follower;
using weightcast::Hooked;
using weightcast::NamedTensor;
using weightcast::PointResult;
using weightcast::Publication;
using weightcast::Status;
using weightcast_test::Job;
using weightcast_test::kLong;

struct PolicyImpl : torch::nn::Module {
  PolicyImpl() {
    input = register_module("input", torch::nn::Linear(4, 64));
    norm = register_module("norm", torch::nn::BatchNorm1d(64));
    wide = register_module("wide", torch::nn::Linear(64, 8192));  // 2 MiB: copied beside training
    output = register_module("output", torch::nn::Linear(8192, 2));
    tied = register_parameter("tied", output->bias);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    return output(torch::relu(wide(norm(torch::relu(input(x))))));
  }
  torch::nn::Linear input{nullptr}, wide{nullptr}, output{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::Tensor tied;
};
TORCH_MODULE(Policy);

Policy make_replica() {
  Policy policy;
  policy->eval();
  return policy;
}

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  const auto x = a.contiguous();
  const auto y = b.contiguous();
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() &&
         std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

using Weights = std::map<std::string, torch::Tensor>;

template <class Module>
Weights clone_of(Module& module) {
  std::vector<NamedTensor> tensors;
  weightcast::make_lister(module)(tensors);
  Weights out;
  for (const auto& t : tensors) out[t.name] = t.tensor.detach().clone();
  return out;
}

template <class Module>
void expect_weights(Module& module, const Weights& want) {
  const Weights got = clone_of(module);
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) {
    ASSERT_EQ(got.count(name), 1u) << name;
    EXPECT_TRUE(same_bits(got.at(name), tensor)) << name;
  }
}

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

TEST(Follower, ATensorThatOutlivesItsLeaseKeepsItsBytes) {
  const Job job;
  Policy policy;
  auto publication = weightcast::attach(policy, {.publisher = job.publisher()});
  Follower follower(make_replica, {.subscriber = job.subscriber()});
  ASSERT_TRUE(publication.flush(kLong));
  const auto want = policy->wide->weight.detach().clone();
  torch::Tensor kept;
  {
    const auto lease = follower.acquire(kLong);
    kept = lease->wide->weight.detach();
  }

  const auto train = [&] {
    const torch::NoGradGuard no_grad;
    ASSERT_TRUE(publication.fence());
    policy->wide->weight.add_(1);
  };
  train();
  const auto second = publication.flush(kLong);
  ASSERT_TRUE(second) << second.status().to_string();
  ASSERT_TRUE(follower.wait_for(second->version.number, kLong));
  expect_weights(*follower.acquire(kLong), clone_of(policy));
  // With what is served and what is kept an engine's memory is taken: it serves on, and the trainer
  // goes on without it, through more versions than it has slots.
  for (int i = 0; i < 8; ++i) {
    train();
    publication.publish();
  }
  EXPECT_TRUE(same_bits(kept, want));
  EXPECT_GE(follower.acquire(kLong).version(), second->version);

  kept = torch::Tensor();
  train();
  const auto last = publication.flush(kLong);
  ASSERT_TRUE(last) << last.status().to_string();
  ASSERT_TRUE(follower.wait_for(last->version.number, kLong));
  expect_weights(*follower.acquire(kLong), clone_of(policy));
}

TEST(Follower, NaNsAndInfinitiesPassUnchanged) {
  const Job job;
  const auto odd = torch::empty({6}, torch::kInt);
  const std::uint32_t bits[6] = {0x7fc00001u, 0xffc12345u, 0x7f800001u, 0x7f800000u, 0xff800000u, 0x80000001u};
  std::memcpy(odd.data_ptr(), bits, sizeof bits);
  const auto floats = odd.view(torch::kFloat);
  auto publication = weightcast::attach([&] { return std::vector<NamedTensor>{{"odd", floats}}; },
                                        {.publisher = job.publisher()});
  auto applier = weightcast::Subscriber::open(job.subscriber());
  ASSERT_TRUE(applier);
  ASSERT_TRUE(publication.flush(kLong));

  const auto lease = applier->acquire(weightcast::Clock::now() + kLong);

  ASSERT_TRUE(lease) << lease.status().to_string();
  EXPECT_EQ(std::memcmp(lease->image().find("odd")->data, bits, sizeof bits), 0);
}

// A model that is no Module and changes its tensors.
struct Table {
  std::map<std::string, torch::Tensor> weights;
  const auto& named_parameters() const { return weights; }
};

TEST(Follower, ServesOnWhileVersionsDoNotFitAndTakesTheNextThatDoes) {
  const Job job;
  const auto make = [] { return Table{{{"a", torch::zeros({2})}, {"b", torch::zeros({3})}}}; };
  Table trainer = make();
  auto publication = weightcast::attach(trainer, {.publisher = job.publisher()});
  Follower follower([&] { return std::make_shared<Table>(make()); }, {.subscriber = job.subscriber()});
  std::uint64_t good = 0;
  const auto publish = [&] {
    publication.publish();
    const auto verdict = publication.flush(kLong);
    // An engine that refused one version catches up alone from then on: flush() does not wait for it.
    EXPECT_TRUE(verdict.is_ok() || verdict.status().code() == Code::kUnavailable) << verdict.status().to_string();
    return publication.version().number;
  };
  const auto publish_good = [&] {
    good = publish();
    const Status served = follower.wait_for(good, kLong);
    ASSERT_TRUE(served) << served.to_string();
    EXPECT_EQ(follower.acquire(kLong).version().number, good);
  };
  const auto publish_bad = [&](const std::string& complaint) {
    publish();
    const auto deadline = weightcast::Clock::now() + kLong;
    const auto refused = [&] { return follower.status().last_failure.find(complaint) != std::string::npos; };
    while (!refused() && weightcast::Clock::now() < deadline) {
      EXPECT_FALSE(follower.wait_for(good + 1, std::chrono::milliseconds(20)));
    }
    EXPECT_TRUE(refused()) << "expected: " << complaint << "; got: " << follower.status().last_failure;
    const auto lease = follower.acquire(kLong);
    EXPECT_EQ(lease.version().number, good);
    EXPECT_EQ(lease->weights.at("a").sizes(), torch::IntArrayRef({2}));
  };

  publish_good();
  trainer.weights["added"] = torch::ones({4});
  publish_good();
  EXPECT_TRUE(follower.acquire(kLong).tensor("added").equal(torch::ones({4})));
  trainer.weights["a"] = torch::zeros({2, 1});
  publish_bad("'a': expected f32 [2]");
  trainer.weights["a"] = torch::zeros({2}, torch::kDouble);
  publish_bad("has f64 [2]");
  trainer.weights.erase("a");
  publish_bad("'a' (f32 [2])");
  trainer.weights["a"] = torch::full({2}, 9.0f);
  trainer.weights.erase("added");
  publish_good();
  EXPECT_TRUE(follower.acquire(kLong)->weights.at("a").equal(torch::full({2}, 9.0f)));
}

TEST(Follower, AcquireThrowsAtItsDeadlineWithoutATrainerAndTryAcquireReturns) {
  const Job job;
  Follower follower(make_replica, {.acquire_timeout = std::chrono::milliseconds(1), .subscriber = job.subscriber()});

  EXPECT_EQ(follower.try_acquire(weightcast::Clock::now()).status().code(), Code::kDeadline);
  EXPECT_THROW((void)follower.acquire(), weightcast::Error);
}

TEST(Follower, TellsAfterEachApplyMovesAndLeasesOutliveIt) {
  const Job job;
  Policy policy;
  auto publication = weightcast::attach(policy, {.publisher = job.publisher()});
  std::vector<std::uint64_t> applied;
  weightcast::FollowerLease<PolicyImpl> lease;
  {
    Follower<PolicyImpl> made(std::vector<Policy>{make_replica(), make_replica(), make_replica()},
                              {.name = "one", .subscriber = job.subscriber()});
    Follower<PolicyImpl> follower(std::move(made));
    const auto token = follower.after_apply([&](const weightcast::Version& v) { applied.push_back(v.number); });
    const auto verdict = publication.flush(kLong);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    ASSERT_TRUE(follower.wait_for(verdict->version.number, kLong));
    lease = follower.acquire(kLong);
  }

  EXPECT_FALSE(applied.empty());
  EXPECT_EQ(applied.back(), lease.version().number);
  expect_weights(*lease, clone_of(policy));
}

TEST(Follower, RefusesTooFewOrSharedReplicas) {
  const Job job;
  const Policy one = make_replica();
  const std::vector<Policy> single{one};

  EXPECT_THROW(Follower<PolicyImpl>(single, {.subscriber = job.subscriber()}), weightcast::Error);
  EXPECT_THROW(Follower<PolicyImpl>([&] { return one; }, {.subscriber = job.subscriber()}), weightcast::Error);
}

}  // namespace
