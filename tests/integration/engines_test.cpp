// Engines that refuse, fail, lag, share a name, or leave: the trainer and the others go on.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "integration/local_job.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;

/// An applier that does as it is told.
class ScriptedApplier : public Applier {
 public:
  enum class Mode { kAccept, kRefuse, kThrowInBegin, kFailInPlace, kThrowInPlace };

  Status begin(const Version&, const std::vector<TensorInfo>& tensors) override {
    if (mode == Mode::kThrowInBegin) throw std::runtime_error("begin has no room");
    if (mode != Mode::kRefuse) return Status::ok();
    for (const TensorInfo& info : tensors) {
      if (info.name == "adapter.weight") return Status::ok();
    }
    return Status(Code::kMismatch, "tensor 'adapter.weight' is not published; add it to the "
                                   "trainer's policy or take it out of this engine's model");
  }
  Status place(const std::shared_ptr<PolicyImage>&) override {
    if (mode == Mode::kThrowInPlace) throw std::runtime_error("place has no room");
    if (mode == Mode::kFailInPlace) return Status(Code::kExhausted, "no memory for a replica");
    return Status::ok();
  }
  void commit(const Version&) noexcept override { ++commits; }
  void rollback(const Version&) noexcept override { ++rollbacks; }

  std::atomic<Mode> mode{Mode::kAccept};
  std::atomic<int> commits{0};
  std::atomic<int> rollbacks{0};
};

struct Failure {
  const char* name;
  ScriptedApplier::Mode mode;
  const char* words;
};

class FailingEngine : public test::LocalJob, public ::testing::WithParamInterface<Failure> {};

TEST_P(FailingEngine, TheOthersAdvanceAndItRecovers) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber good = follow("good");
  auto applier = std::make_shared<ScriptedApplier>();
  applier->mode = GetParam().mode;
  Subscriber picky = follow("picky", applier);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));

  // A verdict that counts it among the lost, then those without it.
  const auto first = bring(publisher, policy, 1);
  expect_refusal(first.status(), Code::kUnavailable, {"lost on the way: picky"});
  for (std::uint64_t step = 2; step <= 4; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    ASSERT_EQ(verdict->applied, std::vector<std::string>{"good"});
    const auto lease = good.acquire(soon());
    ASSERT_TRUE(lease);
    ASSERT_EQ(policy.difference(lease->image(), step), "");
  }
  expect_refusal(picky.acquire(Clock::now()).status(), Code::kDeadline, {GetParam().words});
  EXPECT_TRUE(has(picky.status().last_failure, GetParam().words)) << picky.status().last_failure;
  EXPECT_GE(picky.status().failed, 2u);
  EXPECT_EQ(applier->commits, 0);

  applier->mode = ScriptedApplier::Mode::kAccept;
  const auto caught_up = picky.acquire(soon());
  ASSERT_TRUE(caught_up) << caught_up.status().to_string();
  EXPECT_EQ(policy.difference(caught_up->image(), 4), "");
  ASSERT_TRUE(eventually([&] {
    for (const auto& receiver : publisher.status().receivers) {
      if (receiver.state != "active") return false;
    }
    return true;
  }));
  const auto verdict = bring(publisher, policy, 5);
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  EXPECT_EQ(verdict->applied.size(), 2u);
  EXPECT_EQ(picky.status().last_failure, "");
}

INSTANTIATE_TEST_SUITE_P(
    Failures, FailingEngine,
    ::testing::Values(
        Failure{"WantsATensorNobodyHas", ScriptedApplier::Mode::kRefuse,
                "tensor 'adapter.weight' is not published; add it to the trainer's policy"},
        Failure{"ThrowsInBegin", ScriptedApplier::Mode::kThrowInBegin,
                "the applier's begin threw: begin has no room"},
        Failure{"FailsInPlace", ScriptedApplier::Mode::kFailInPlace, "no memory for a replica"},
        Failure{"ThrowsInPlace", ScriptedApplier::Mode::kThrowInPlace,
                "the applier's place threw: place has no room"}),
    [](const auto& given) { return std::string(given.param.name); });

class Engines : public test::LocalJob {};

TEST_F(Engines, OneOfTwoWithTheSameNameIsRefusedUntilTheOtherHasLeft) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  std::optional<Subscriber> first(follow("twin"));
  ASSERT_TRUE(bring(publisher, policy, 1));

  Subscriber second = follow("twin");
  ASSERT_TRUE(eventually([&] {
    return has(second.acquire(Clock::now()).status().message(), "refuses this worker");
  }));
  expect_refusal(second.acquire(Clock::now()).status(), Code::kDeadline,
                 {"\"twin\" is here already", "a name of its own"});
  EXPECT_TRUE(bring(publisher, policy, 2));

  first.reset();
  const auto lease = second.acquire(soon());
  ASSERT_TRUE(lease) << lease.status().to_string();
  EXPECT_EQ(policy.difference(lease->image(), 2), "");
}

TEST_F(Engines, MaxStalenessRefusesToServeWhatIsTooOld) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber good = follow("good");
  auto applier = std::make_shared<ScriptedApplier>();
  SubscriberOptions options = subscriber_options("strict");
  options.max_staleness = 2;
  Subscriber strict = follow(options, applier);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  ASSERT_TRUE(bring(publisher, policy, 1));
  ASSERT_TRUE(strict.acquire(soon()));

  applier->mode = ScriptedApplier::Mode::kRefuse;
  for (std::uint64_t step = 2; step <= 6; ++step) {
    bring(publisher, policy, step).is_ok();
  }
  ASSERT_TRUE(eventually([&] { return strict.acquire(Clock::now()).status().code() == Code::kStale; }));
  expect_refusal(strict.acquire(Clock::now()).status(), Code::kStale,
                 {"is served", "is published", "max_staleness = 2"});

  applier->mode = ScriptedApplier::Mode::kAccept;
  const auto lease = strict.acquire(soon());
  ASSERT_TRUE(lease) << lease.status().to_string();
  EXPECT_EQ(policy.difference(lease->image(), 6), "");
}

TEST_F(Engines, ServeOrRefuseWhenTheTrainerIsGoneAsConfigured) {
  ToyPolicy policy;
  SubscriberOptions options = subscriber_options("proud");
  options.serve_detached = false;
  Subscriber proud = follow(options);
  Subscriber patient = follow("patient");
  {
    Publisher publisher = open(policy);
    ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
    ASSERT_TRUE(bring(publisher, policy, 1));
    ASSERT_TRUE(proud.acquire(soon()));
  }

  ASSERT_TRUE(eventually([&] { return !proud.status().attached && !patient.status().attached; }));
  expect_refusal(proud.acquire(Clock::now()).status(), Code::kStale,
                 {"the trainer is not heard", "serve_detached"});
  {
    const auto lease = patient.acquire(Clock::now());
    ASSERT_TRUE(lease) << lease.status().to_string();
    EXPECT_EQ(policy.difference(lease->image(), 1), "");
  }

  Publisher publisher = open(policy);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  ASSERT_TRUE(bring(publisher, policy, 2));
  const auto lease = proud.acquire(soon());
  ASSERT_TRUE(lease) << lease.status().to_string();
  EXPECT_EQ(policy.difference(lease->image(), 2), "");
}

class LongLease : public test::LocalJob, public ::testing::WithParamInterface<Activation> {};

TEST_P(LongLease, MakesItsEngineLagAndCatchUpAlone) {
  ToyPolicy policy;
  PublisherOptions publisher_options_ = publisher_options();
  publisher_options_.slots = 6;
  Publisher publisher = open(publisher_options_, policy);
  Subscriber good = follow("good");
  SubscriberOptions options = subscriber_options("slow");
  options.activation = GetParam();
  options.lease_deadline = 30ms;
  Subscriber slow = follow(options);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  ASSERT_TRUE(bring(publisher, policy, 1));
  auto held = slow.acquire(soon());
  ASSERT_TRUE(held);

  // The second version still fits beside the held one; whether the third has begun by then or not,
  // it can only be lost here.
  bring(publisher, policy, 2).is_ok();
  bring(publisher, policy, 3).is_ok();
  ASSERT_TRUE(eventually([&] { return slow.status().lagging; }));
  ASSERT_TRUE(eventually([&] {
    for (const auto& receiver : publisher.status().receivers) {
      if (receiver.name == "slow" && receiver.state == "lagging") return true;
    }
    return false;
  }));
  for (std::uint64_t step = 4; step <= 8; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    ASSERT_EQ(verdict->applied, std::vector<std::string>{"good"});
  }
  EXPECT_EQ(policy.difference(held->image(), 1), "") << "the held version has changed";

  held->release();
  ASSERT_TRUE(eventually([&] { return slow.status().serving == good.status().serving; }));
  ASSERT_TRUE(eventually([&] { return !slow.status().lagging; }));
  ASSERT_TRUE(eventually([&] {
    const auto verdict = bring(publisher, policy, 9);
    return verdict && verdict->applied.size() == 2;
  }));
  const auto lease = slow.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy.difference(lease->image(), 9), "");
}

INSTANTIATE_TEST_SUITE_P(Activations, LongLease,
                         ::testing::Values(Activation::kView, Activation::kFlip, Activation::kStaged,
                                           Activation::kSerial),
                         [](const auto& given) {
                           switch (given.param) {
                             case Activation::kView: return "View";
                             case Activation::kFlip: return "Flip";
                             case Activation::kStaged: return "Staged";
                             default: return "Serial";
                           }
                         });

TEST_F(Engines, AfterApplyRunsBeforeLeasesGetTheVersionAndEndsWithItsToken) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow("one");
  std::atomic<std::uint64_t> calls{0};
  std::atomic<bool> early{false};
  auto token = engine.after_apply([&](const Version& version) {
    ++calls;
    const auto lease = engine.acquire(Clock::now());
    early = early || (lease && lease->version() >= version);
  });
  auto second = engine.after_apply([](const Version&) { throw std::runtime_error("oops"); });

  for (std::uint64_t step = 1; step <= 5; ++step) ASSERT_TRUE(bring(publisher, policy, step));
  EXPECT_EQ(calls, 5u);
  EXPECT_FALSE(early) << "a lease had the version before the callback";

  token.reset();
  ASSERT_TRUE(bring(publisher, policy, 6));
  EXPECT_EQ(calls, 5u);
}

/// Keeps the image that it serves from, as one with replicas does.
class KeepingApplier : public ScriptedApplier {
 public:
  Status place(const std::shared_ptr<PolicyImage>& image) override {
    kept = image;
    return Status::ok();
  }
  std::shared_ptr<PolicyImage> kept;
};

TEST_F(Engines, ALeaseThatOutlivesEverybodyIsWholeAndTheLastToClearUp) {
  ToyPolicy policy;
  auto applier = std::make_shared<KeepingApplier>();
  Result<Lease> lease = Status(Code::kNotFound, "none yet");
  {
    Publisher publisher = open(policy);
    Subscriber engine = follow("one", applier);
    ASSERT_TRUE(bring(publisher, policy, 1));
    lease = engine.acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
  }

  EXPECT_EQ(policy.difference(lease->image(), 1), "");
  EXPECT_FALSE(test::shm_objects("." + job + ".").empty());
  lease->release();
  applier.reset();
  EXPECT_EQ(test::shm_objects("." + job + "."), std::vector<std::string>{});
}

TEST_F(Engines, ThatLeaveTogetherAfterTheirTrainerLeaveNothing) {
  for (int round = 0; round < 20; ++round) {
    ToyPolicy policy;
    std::vector<std::unique_ptr<Subscriber>> engines;
    {
      Publisher publisher = open(policy);
      for (int i = 0; i < 4; ++i) {
        engines.push_back(std::make_unique<Subscriber>(follow("engine-" + std::to_string(i))));
      }
      ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 4; }));
      ASSERT_TRUE(bring(publisher, policy, 1));
    }
    std::vector<std::thread> leaving;
    for (auto& engine : engines) leaving.emplace_back([&engine] { engine.reset(); });
    for (std::thread& thread : leaving) thread.join();
    ASSERT_EQ(test::shm_objects("." + job + "."), std::vector<std::string>{}) << "round " << round;
  }
}

}  // namespace
}  // namespace weightcast
