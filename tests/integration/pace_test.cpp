// What becomes of publish points when there is no grant, no time, no slot or not enough receivers.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>

#include "integration/local_job.hpp"
#include "integration/two_ranks.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;
using Kind = PointResult::Kind;

/// Takes nothing in while it is closed.
class Gate : public Applier {
 public:
  Status begin(const Version&, const std::vector<TensorInfo>&) override { return Status::ok(); }
  Status place(const std::shared_ptr<PolicyImage>&) override {
    std::unique_lock lock(mutex_);
    if (!opened_.wait_until(lock, soon(), [&] { return open_; })) {
      return Status(Code::kDeadline, "the gate stayed closed");
    }
    return Status::ok();
  }
  void commit(const Version&) noexcept override {}
  void rollback(const Version&) noexcept override {}

  void set(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = true;
};

class Pace : public test::LocalJob {
 protected:
  /// Publishes steps from `step` on until one is captured. @return that step
  static std::uint64_t capture(Publisher& publisher, ToyPolicy& policy, std::uint64_t step) {
    eventually([&] {
      EXPECT_TRUE(publisher.fence());
      policy.step(step);
      return publisher.publish(policy.lister()).kind == Kind::kCaptured || ++step == 0;
    });
    return step;
  }
};

TEST_F(Pace, PointsWithoutAGrantAreCoalescedIntoTheNext) {
  ToyPolicy policy;
  auto gate = std::make_shared<Gate>();
  Publisher publisher = open(policy);
  Subscriber engine = follow("one", gate);
  ASSERT_TRUE(bring(publisher, policy, 1));
  const PublisherStatus before = publisher.status();

  gate->set(false);
  capture(publisher, policy, 2);
  ASSERT_TRUE(eventually([&] { return publisher.status().published > before.published; }));
  const PublisherStatus closed = publisher.status();
  for (std::uint64_t step = 100; step < 150; ++step) {
    ASSERT_TRUE(publisher.fence());
    policy.step(step);
    ASSERT_EQ(publisher.publish(policy.lister()).kind, Kind::kCoalesced);
  }
  EXPECT_EQ(publisher.status().coalesced, closed.coalesced + 50);
  EXPECT_TRUE(has(publisher.status().blocked, "receivers to apply the last version"))
      << publisher.status().blocked;
  gate->set(true);

  const auto verdict = publisher.flush(soon(), policy.lister());
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  EXPECT_EQ(verdict->version.number, closed.next_point + 49) << "the last point, taken again";
  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy.difference(lease->image(), 149), "");
}

TEST_F(Pace, PublishWaitsForAGrantWhereTooManyPointsWouldBeCoalesced) {
  ToyPolicy policy;
  auto gate = std::make_shared<Gate>();
  PublisherOptions options = publisher_options();
  options.max_coalesced = 2;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one", gate);
  ASSERT_TRUE(bring(publisher, policy, 1));

  gate->set(false);
  const std::uint64_t captured = capture(publisher, policy, 2);
  for (std::uint64_t step = captured + 1; step <= captured + 2; ++step) {
    ASSERT_TRUE(publisher.fence());
    policy.step(step);
    ASSERT_EQ(publisher.publish(policy.lister()).kind, Kind::kCoalesced);
  }
  const auto open_later = std::async(std::launch::async, [&] { gate->set(true); });
  policy.step(captured + 3);
  EXPECT_EQ(publisher.publish(policy.lister()).kind, Kind::kCaptured);
}

TEST_F(Pace, PublishWaitsNoLongerThanTheStall) {
  ToyPolicy policy;
  auto gate = std::make_shared<Gate>();
  PublisherOptions options = publisher_options();
  options.max_coalesced = 0;
  options.stall = 20ms;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one", gate);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));

  gate->set(false);
  capture(publisher, policy, 1);
  ASSERT_TRUE(eventually([&] { return !publisher.status().published.is_none(); }));
  EXPECT_EQ(publisher.publish(policy.lister()).kind, Kind::kCoalesced);
  gate->set(true);
  EXPECT_TRUE(publisher.flush(soon(), policy.lister()));
}

TEST_F(Pace, AFenceGivesUpWhenTheCopiesOutlastTheStall) {
  ToyPolicy policy;
  policy.add("large", DType::kF32, {3, 1024, 1024});
  PublisherOptions options = publisher_options();
  options.stall = 0ms;
  options.copy_threads = 1;
  options.slots = 2;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one");
  Status fenced;
  // The copy may win the race against the fence, but not for ever.
  ASSERT_TRUE(eventually([&] {
    publisher.publish(policy.lister());
    fenced = publisher.fence();
    return !fenced.is_ok();
  }));
  expect_refusal(fenced, Code::kDeadline, {"outlasted stall = 0 ms", "that point was given up",
                                           "raise stall, raise copy_threads or publish less often"});
  ASSERT_TRUE(eventually([&] { return publisher.status().voided > 0; }));

  // Where the trainer gives it time, the next version comes.
  policy.step(7);
  const auto verdict = publisher.flush(soon(), policy.lister());
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy.difference(lease->image(), 7), "");
}

TEST_F(Pace, ASkippedPointIsVoidOnAllRanks) {
  const test::LogLines log;
  set_log_level(LogLevel::kDebug);
  ToyPolicy policy_0;
  ToyPolicy policy_1;
  test::TwoRanks ranks(publisher_options(), policy_0, policy_1);
  Subscriber engine = follow("one");
  ASSERT_TRUE(ranks.train_until([&] { return engine.status().applied >= 2; }));

  // Rank 1's step fails at a point that rank 0 captured; again where rank 1 had not heard of the grant,
  // and missed it.
  std::uint64_t skipped = 0;
  ASSERT_TRUE(eventually([&] {
    if (log.contain("why=\"rank-1: the step threw\"")) return true;
    [[maybe_unused]] const Status fenced_0 = ranks.zero.fence();
    [[maybe_unused]] const Status fenced_1 = ranks.one.fence();
    ++ranks.step;
    policy_0.step(ranks.step);
    policy_1.step(ranks.step);
    const PointResult point = ranks.zero.publish(policy_0.lister());
    if (point.kind == Kind::kCaptured) {
      skipped = point.point;
      ranks.one.skip("the step threw");
    } else {
      ranks.one.publish(policy_1.lister());
    }
    return false;
  }));
  set_log_level(LogLevel::kInfo);
  ASSERT_TRUE(ranks.train_until([&] { return engine.status().serving.number > skipped; }));
  EXPECT_GE(ranks.one.status().voided, 1u);
  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy_0.difference(lease->image(), lease->version().number), "");
}

TEST_F(Pace, FlushWaitsForAsManyReceiversAsAskedFor) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.min_receivers = 2;
  Publisher publisher = open(options, policy);
  Subscriber one = follow("one");
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));

  const auto too_few = bring(publisher, policy, 1, Clock::now() + 200ms);
  EXPECT_EQ(too_few.status().code(), Code::kDeadline) << too_few.status().to_string();
  EXPECT_TRUE(has(too_few.status().message(), "receivers had not all applied the version"))
      << too_few.status().to_string();

  Subscriber two = follow("two");
  const auto enough = publisher.flush(soon(), policy.lister());
  ASSERT_TRUE(enough) << enough.status().to_string();
  EXPECT_EQ(enough->applied.size(), 2u);
}

TEST_F(Pace, BothRanksHearTheSameVerdict) {
  ToyPolicy policy_0;
  ToyPolicy policy_1;
  test::TwoRanks ranks(publisher_options(), policy_0, policy_1);
  Subscriber one = follow("one");
  Subscriber two = follow("two");
  ASSERT_TRUE(eventually([&] { return ranks.zero.status().receivers.size() == 2; }));

  std::uint64_t last = 0;
  for (int round = 0; round < 10; ++round) {
    ranks.train();
    auto other = std::async(std::launch::async,
                            [&] { return ranks.one.flush(soon(), policy_1.lister()); });
    const auto verdict_0 = ranks.zero.flush(soon(), policy_0.lister());
    const auto verdict_1 = other.get();
    ASSERT_TRUE(verdict_0) << verdict_0.status().to_string();
    ASSERT_TRUE(verdict_1) << verdict_1.status().to_string();
    ASSERT_EQ(verdict_0->version, verdict_1->version);
    ASSERT_EQ(verdict_0->applied, verdict_1->applied);
    ASSERT_EQ(ranks.zero.status().next_point, ranks.one.status().next_point);
    ASSERT_GT(verdict_0->version.number, last);
    last = verdict_0->version.number;
    ASSERT_TRUE(one.wait_for(last, soon()));
    const auto lease = one.acquire(soon());
    ASSERT_TRUE(lease);
    ASSERT_EQ(policy_0.difference(lease->image(), ranks.step), "");
  }
}

// ---- memory that stays what it was ----------------------------------------------------------

TEST_F(Pace, SlotsThatLeasesHoldCostVersionsAndNoMemory) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.slots = 2;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one");
  ASSERT_TRUE(bring(publisher, policy, 1));
  auto held = engine.acquire(soon());
  ASSERT_TRUE(held);
  ASSERT_TRUE(bring(publisher, policy, 2));
  const auto objects = test::shm_objects("." + job + ".");

  for (std::uint64_t step = 10; step < 60; ++step) {
    ASSERT_TRUE(publisher.fence());
    policy.step(step);
    ASSERT_EQ(publisher.publish(policy.lister()).kind, Kind::kCoalesced);
  }
  EXPECT_TRUE(has(publisher.status().blocked, "no free slot: all 2 are held by readers"))
      << publisher.status().blocked;
  const auto blocked = publisher.flush(Clock::now() + 50ms, policy.lister());
  expect_refusal(blocked.status(), Code::kDeadline, {"waiting for a grant", "no free slot"});
  EXPECT_EQ(test::shm_objects("." + job + "."), objects);
  EXPECT_EQ(policy.difference(held->image(), 1), "");

  held->release();
  const auto verdict = publisher.flush(soon(), policy.lister());
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy.difference(lease->image(), 59), "");
}

class ThousandVersions : public test::LocalJob,
                         public ::testing::WithParamInterface<Activation> {};

std::size_t open_descriptors() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                                std::filesystem::directory_iterator()));
}

std::size_t slot_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += has(line, "/dev/shm/weightcast");
  return count;
}

std::size_t mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST_P(ThousandVersions, TakeNoMoreDescriptorsNorMappings) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  SubscriberOptions options = subscriber_options("one");
  options.activation = GetParam();
  Subscriber engine = follow(options);
  for (std::uint64_t step = 1; step <= 30; ++step) ASSERT_TRUE(bring(publisher, policy, step));
  const std::size_t descriptors = open_descriptors();
  const std::size_t slots = slot_mappings();
  const std::size_t all = mappings();
  const auto objects = test::shm_objects("." + job + ".");

  for (std::uint64_t step = 31; step <= 1030; ++step) ASSERT_TRUE(bring(publisher, policy, step));

  EXPECT_EQ(engine.status().applied, 1030u);
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(slot_mappings(), slots);
  EXPECT_LE(mappings(), all + 8) << "an allocator's arenas take a few, not one a version";
  EXPECT_EQ(test::shm_objects("." + job + "."), objects);
}

INSTANTIATE_TEST_SUITE_P(Activations, ThousandVersions,
                         ::testing::Values(Activation::kView, Activation::kFlip),
                         [](const auto& given) {
                           return given.param == Activation::kView ? "View" : "Flip";
                         });

}  // namespace
}  // namespace weightcast
