// How engines take versions in: bytes, addresses, leases across a switch, failures in the middle.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <future>
#include <map>

#include "base/failpoint.hpp"
#include "integration/local_job.hpp"
#include "integration/two_ranks.hpp"
#include "staging/slot_format.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;

std::string name_of(Activation activation) {
  static const std::map<Activation, std::string> kNames{{Activation::kView, "View"},
                                                        {Activation::kFlip, "Flip"},
                                                        {Activation::kStaged, "Staged"},
                                                        {Activation::kSerial, "Serial"}};
  return kNames.at(activation);
}
std::string name_of_case(const ::testing::TestParamInfo<Activation>& given) {
  return name_of(given.param);
}

/// Places nothing of its own; fails as often as it is told.
class Counting : public Applier {
 public:
  Status begin(const Version&, const std::vector<TensorInfo>&) override { return Status::ok(); }
  Status place(const std::shared_ptr<PolicyImage>&) override {
    if (failures.load() > 0) {
      --failures;
      return Status(Code::kExhausted, "no memory for a replica");
    }
    return Status::ok();
  }
  void commit(const Version&) noexcept override { ++commits; }
  void rollback(const Version&) noexcept override {}
  void suspend(const Version&) noexcept override { ++suspensions; }
  bool wants_fixed_addresses() const override { return fixed; }

  bool fixed = false;
  std::atomic<int> failures{0};
  std::atomic<int> commits{0};
  std::atomic<int> suspensions{0};
};

class Activations : public test::LocalJob {
 protected:
  SubscriberOptions options_of(const std::string& name, Activation activation) const {
    SubscriberOptions options = subscriber_options(name);
    options.activation = activation;
    return options;
  }

  static void expect_step(Subscriber& engine, const ToyPolicy& policy, std::uint64_t step) {
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    ASSERT_EQ(policy.difference(lease->image(), step), "");
  }
};

class EachActivation : public Activations, public ::testing::WithParamInterface<Activation> {};

TEST_P(EachActivation, EveryLeaseHoldsTheTrainersBytes) {
  ToyPolicy policy_0, policy_1;
  test::TwoRanks ranks(publisher_options(), policy_0, policy_1);
  auto applier = std::make_shared<Counting>();
  Subscriber engine = follow(options_of("one", GetParam()), applier);
  Subscriber other = follow(options_of("two", Activation::kFlip));
  std::atomic<bool> done{false};
  auto worker = std::async(std::launch::async, [&]() -> std::string {
    std::uint64_t last = 0;
    while (!done) {
      const auto lease = engine.acquire(Clock::now() + 20ms);
      if (!lease) continue;
      const std::uint64_t number = lease->version().number;
      if (number < last) return "version " + std::to_string(number) + " came after a later one";
      last = number;
      // Points and steps are counted alike here.
      const std::string wrong = policy_0.difference(lease->image(), number);
      if (!wrong.empty()) return "version " + std::to_string(number) + ": " + wrong;
    }
    return {};
  });

  const bool flowed = ranks.train_until([&] {
    return engine.status().applied >= 20 && other.status().applied >= 20;
  });
  done = true;
  EXPECT_EQ(worker.get(), "");
  EXPECT_TRUE(flowed) << engine.status().last_failure;
  const SubscriberStatus status = engine.status();
  EXPECT_EQ(status.activation, GetParam());
  EXPECT_EQ(status.activation_reason, "chosen by the configuration");
  EXPECT_EQ(status.transport, "shm");
  EXPECT_EQ(status.failed, 0u) << status.last_failure;
  // Another version may be on its way into the one image.
  EXPECT_TRUE(eventually([&] { return !engine.status().dirty; }));
  const bool in_place = GetParam() == Activation::kStaged || GetParam() == Activation::kSerial;
  EXPECT_EQ(applier->suspensions > 0, in_place);
}

TEST_P(EachActivation, OutlivesItsTrainerAndFollowsTheNextRun) {
  ToyPolicy policy;
  Subscriber engine = follow(options_of("one", GetParam()));
  for (std::uint64_t step = 1; step <= 2; ++step) {
    Publisher publisher = open(policy);
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    expect_step(engine, policy, step);
  }
  expect_step(engine, policy, 2);
}

TEST_P(EachActivation, FollowsTensorsThatComeGoAndChange) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", GetParam()));
  ASSERT_TRUE(bring(publisher, policy, 1));
  policy.add("added", DType::kF32, {80, 90});
  ASSERT_TRUE(bring(publisher, policy, 2));
  expect_step(engine, policy, 2);
  policy.tensors.erase(policy.tensors.begin() + 1);
  ASSERT_TRUE(bring(publisher, policy, 3));
  expect_step(engine, policy, 3);
  policy.tensors[0].info.shape = {128, 64};
  ASSERT_TRUE(bring(publisher, policy, 4));
  expect_step(engine, policy, 4);
}

INSTANTIATE_TEST_SUITE_P(All, EachActivation,
                         ::testing::Values(Activation::kView, Activation::kFlip, Activation::kStaged,
                                           Activation::kSerial),
                         name_of_case);

// ---- in place -------------------------------------------------------------------------------

class InPlaceActivation : public Activations, public ::testing::WithParamInterface<Activation> {};

TEST_P(InPlaceActivation, TensorsStayWhereTheyAre) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", GetParam()));
  std::map<std::string, const void*> first;
  for (std::uint64_t step = 1; step <= 10; ++step) {
    ASSERT_TRUE(bring(publisher, policy, step));
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease);
    ASSERT_EQ(policy.difference(lease->image(), step), "");
    for (const PlacedTensor& tensor : lease->image().tensors()) {
      const auto known = first.emplace(tensor.info.name, tensor.data).first;
      EXPECT_EQ(known->second, tensor.data) << tensor.info.name << " at step " << step;
    }
  }
}

TEST_P(InPlaceActivation, ALeaseKeepsItsBytesAndNewOnesWaitForTheSwitch) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("one", GetParam()));
  ASSERT_TRUE(bring(publisher, policy, 1));
  auto held = engine.acquire(soon());
  ASSERT_TRUE(held);

  auto verdict = std::async(std::launch::async, [&] { return bring(publisher, policy, 2); });
  ASSERT_TRUE(eventually([&] { return !engine.acquire(Clock::now()).is_ok(); }));
  expect_refusal(engine.acquire(Clock::now()).status(), Code::kDeadline,
                 {"comes in place as soon as all leases on the former one have ended"});
  EXPECT_EQ(policy.difference(held->image(), 1), "") << "written under a lease";
  auto waiting = std::async(std::launch::async, [&] { return engine.acquire(soon()); });
  held->release();

  const auto next = waiting.get();
  ASSERT_TRUE(next) << next.status().to_string();
  EXPECT_EQ(policy.difference(next->image(), 2), "");
  const auto applied = verdict.get();
  EXPECT_TRUE(applied) << applied.status().to_string();
}

TEST_P(InPlaceActivation, APlaceThatFailsLeavesNothingToServeUntilOneHasComeWhole) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  auto applier = std::make_shared<Counting>();
  Subscriber engine = follow(options_of("one", GetParam()), applier);
  Subscriber good = follow("good");
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  ASSERT_TRUE(bring(publisher, policy, 1));
  ASSERT_TRUE(engine.acquire(soon()));

  applier->failures = 1 << 30;
  EXPECT_FALSE(bring(publisher, policy, 2));
  // It is tried again and again; while it is, the refusal says that alone.
  Status refused;
  ASSERT_TRUE(eventually([&] {
    refused = engine.acquire(Clock::now()).status();
    return has(refused.message(), "could not be taken in place");
  })) << refused.to_string();
  expect_refusal(refused, Code::kDeadline, {"nothing is served", "no memory for a replica"});
  EXPECT_TRUE(engine.status().dirty);
  EXPECT_FALSE(engine.wait_for(1, Clock::now())) << "what was served is no more";
  expect_step(good, policy, 2);

  applier->failures = 0;
  expect_step(engine, policy, 2);
  ASSERT_TRUE(eventually([&] { return !engine.status().dirty; }));
  EXPECT_EQ(engine.status().last_failure, "");
}

INSTANTIATE_TEST_SUITE_P(Both, InPlaceActivation,
                         ::testing::Values(Activation::kStaged, Activation::kSerial), name_of_case);

// ---- a fetch that comes spoiled -------------------------------------------------------------

std::string spoiled_job;
std::atomic<std::uint64_t> spoiled_version{0};

/// Overwrites a byte of the version in its slot, behind the trainer's back, before it is read.
void spoil(const char* name, unsigned long long version) {
  if (std::string(name) != "engine.copying" || version == 0 || version != spoiled_version) return;
  for (const std::string& object : test::shm_objects("." + spoiled_job + ".")) {
    const int fd = ::open(("/dev/shm/" + object).c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) continue;
    staging::SlotHeader header{};
    if (::pread(fd, &header, sizeof header, 0) == sizeof header && header.number == version) {
      const char wrong = '!';
      EXPECT_EQ(::pwrite(fd, &wrong, 1, static_cast<off_t>(staging::header_bytes() + 1000)), 1);
    }
    ::close(fd);
  }
}

class SpoiledFetch : public Activations {
 protected:
  SpoiledFetch() {
    spoiled_job = job;
    spoiled_version = 0;
    base::failpoint_handler() = spoil;
  }
  ~SpoiledFetch() override { base::failpoint_handler() = nullptr; }
};

TEST_F(SpoiledFetch, LeavesASerialEngineDirtyUntilTheNextVersion) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("serial", Activation::kSerial));
  ASSERT_TRUE(bring(publisher, policy, 1));
  ASSERT_TRUE(engine.acquire(soon()));

  spoiled_version = publisher.status().next_point;
  EXPECT_FALSE(bring(publisher, policy, 2));
  ASSERT_TRUE(eventually([&] { return engine.status().dirty && engine.status().failed > 0; }));
  // While it is being tried again, that is what acquire() says.
  Status refused;
  ASSERT_TRUE(eventually([&] {
    refused = engine.acquire(Clock::now()).status();
    return has(refused.message(), "do not have the digest");
  })) << refused.to_string();
  expect_refusal(refused, Code::kDeadline, {"nothing is served", "'embed.weight'"});

  ASSERT_TRUE(eventually([&] {
    bring(publisher, policy, 3).is_ok();
    return engine.acquire(Clock::now()).is_ok();
  }));
  expect_step(engine, policy, 3);
  ASSERT_TRUE(eventually([&] { return !engine.status().dirty; }));
}

TEST_F(SpoiledFetch, LeavesAStagedEngineServingItsFormerVersion) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow(options_of("staged", Activation::kStaged));
  ASSERT_TRUE(bring(publisher, policy, 1));
  ASSERT_TRUE(engine.acquire(soon()));

  spoiled_version = publisher.status().next_point;
  EXPECT_FALSE(bring(publisher, policy, 2));
  ASSERT_TRUE(eventually([&] { return engine.status().failed > 0; }));
  EXPECT_TRUE(has(engine.status().last_failure, "do not have the digest"));
  EXPECT_FALSE(engine.status().dirty);
  expect_step(engine, policy, 1);

  ASSERT_TRUE(eventually([&] {
    bring(publisher, policy, 3).is_ok();
    return engine.status().serving > Version{publisher.status().run, spoiled_version};
  }));
  expect_step(engine, policy, 3);
}

}  // namespace
}  // namespace weightcast
