// Followers in the trainer's process, over the real core.
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/types.h>

#include <weightcast/torch.hpp>

#include "torch/job.hpp"
#include "torch/policy.hpp"

namespace {

using weightcast::Code;
using weightcast::Follower;
using weightcast::NamedTensor;
using weightcast::Status;
using weightcast_test::clone_of;
using weightcast_test::expect_weights;
using weightcast_test::Job;
using weightcast_test::kLong;
using weightcast_test::make_replica;
using weightcast_test::Policy;
using weightcast_test::PolicyImpl;
using weightcast_test::same_bits;

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
