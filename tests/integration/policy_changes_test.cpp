// A policy that changes under the way, ranks that disagree, and values that are no numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "integration/local_job.hpp"
#include "integration/two_ranks.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;

class ChangedPolicy : public test::LocalJob {
 protected:
  void expect_arrival(Publisher& publisher, Subscriber& engine, ToyPolicy& policy,
                      std::uint64_t step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease) << lease.status().to_string();
    ASSERT_EQ(lease->version(), verdict->version);
    ASSERT_EQ(policy.difference(lease->image(), step), "");
  }
};

TEST_F(ChangedPolicy, TensorsComeGoAndChangeTheirKind) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber view = follow("view");
  SubscriberOptions options = subscriber_options("flip");
  options.activation = Activation::kFlip;
  Subscriber flip = follow(options);
  expect_arrival(publisher, view, policy, 1);

  policy.add("added", DType::kF32, {8, 9});
  expect_arrival(publisher, view, policy, 2);
  policy.tensors.erase(policy.tensors.begin() + 1);
  expect_arrival(publisher, view, policy, 3);
  policy.tensors[0].info.shape = {128, 64};
  expect_arrival(publisher, view, policy, 4);
  policy.tensors[0].info.dtype = DType::kI32;
  expect_arrival(publisher, view, policy, 5);
  policy.tensors[0].info.aliases = {"tied.weight"};
  expect_arrival(publisher, view, policy, 6);

  ASSERT_TRUE(flip.wait_for(publisher.status().committed.number, soon()));
  const auto lease = flip.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy.difference(lease->image(), 6), "");
  EXPECT_EQ(lease->image().find("tied.weight"), lease->image().find(policy.tensors[0].info.name));
}

TEST_F(ChangedPolicy, GrowthBeyondTheSlotsVoidsThePointAndSaysWhatToDo) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.max_coalesced = 0;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one");
  expect_arrival(publisher, engine, policy, 1);

  policy.add("too.large", DType::kF32, {1024, 1024});
  policy.step(2);
  const PointResult point = publisher.publish(policy.lister());
  ASSERT_EQ(point.kind, PointResult::Kind::kVoid);
  EXPECT_TRUE(has(point.why, "the policy has grown")) << point.why;
  EXPECT_TRUE(has(point.why, "set slot_bytes")) << point.why;
  const auto flushed = publisher.flush(Clock::now() + 300ms, policy.lister());
  expect_refusal(flushed.status(), Code::kDeadline, {"flush", "the policy has grown"});
  {
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease);
    EXPECT_EQ(policy.tensors.size(), lease->image().tensors().size() + 1) << "a torn version";
  }

  policy.tensors.pop_back();
  expect_arrival(publisher, engine, policy, 3);
}

TEST_F(ChangedPolicy, AListerThatFailsOrThrowsVoidsThePoint) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.max_coalesced = 0;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one");
  expect_arrival(publisher, engine, policy, 1);

  const PointResult failed = publisher.publish(
      [](TensorList&) { return Status(Code::kUnavailable, "the model is being loaded"); });
  const PointResult thrown = publisher.publish(
      [](TensorList&) -> Status { throw std::runtime_error("no such module"); });
  const PointResult null = publisher.publish([&](TensorList& list) {
    const Status status = policy.lister()(list);
    list.tensors[0].data = nullptr;
    return status;
  });

  EXPECT_EQ(failed.kind, PointResult::Kind::kVoid);
  EXPECT_TRUE(has(failed.why, "the model is being loaded")) << failed.why;
  EXPECT_EQ(thrown.kind, PointResult::Kind::kVoid);
  EXPECT_TRUE(has(thrown.why, "listing the tensors failed: no such module")) << thrown.why;
  EXPECT_EQ(null.kind, PointResult::Kind::kVoid);
  EXPECT_TRUE(has(null.why, "tensor 'embed.weight': expected the address")) << null.why;
  expect_arrival(publisher, engine, policy, 2);
}

TEST_F(ChangedPolicy, AWriteDuringTheCopyVoidsThePoint) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.max_coalesced = 0;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("one");
  expect_arrival(publisher, engine, policy, 1);
  const std::uint64_t voided = publisher.status().voided;

  publisher.publish([&](TensorList& list) {
    list.unchanged = [] { return false; };
    return policy.lister()(list);
  });

  EXPECT_TRUE(eventually([&] { return publisher.status().voided > voided; }));
  expect_arrival(publisher, engine, policy, 2);
}

TEST_F(ChangedPolicy, RanksWithOtherTensorsAreReportedAndPublishNothing) {
  const test::LogLines log;
  ToyPolicy good;
  ToyPolicy other;
  other.add("only.here", DType::kF32, {4});
  test::TwoRanks ranks(publisher_options(), good, other);
  Subscriber engine = follow("one");

  ASSERT_TRUE(ranks.train_until([&] { return log.contain("event=ranks_disagree rank=1"); }));
  EXPECT_TRUE(log.contain("build the same model on every rank"));
  EXPECT_TRUE(ranks.zero.status().published.is_none());
  ASSERT_TRUE(eventually([&] { return engine.status().attached; }));
  expect_refusal(engine.acquire(Clock::now()).status(), Code::kDeadline,
                 {"has published no version yet"});

  other.tensors.pop_back();
  ASSERT_TRUE(ranks.train_until([&] { return engine.acquire(Clock::now()).is_ok(); }));
}

TEST_F(ChangedPolicy, ReplicasThatDriftApartAreReported) {
  const test::LogLines log;
  ToyPolicy one;
  ToyPolicy two;
  PublisherOptions options = publisher_options();
  options.compare_every = 1;
  test::TwoRanks ranks(options, one, two);
  Subscriber engine = follow("one");

  ASSERT_TRUE(ranks.train_until([&] { return engine.status().applied >= 3; }));
  EXPECT_EQ(ranks.zero.status().drifted, 0u);
  ranks.drift = 1000;
  ASSERT_TRUE(ranks.train_until([&] { return ranks.zero.status().drifted > 0; }));
  EXPECT_TRUE(log.contain("event=ranks_drifted rank=1"));
  const std::uint64_t applied = engine.status().applied;
  EXPECT_TRUE(ranks.train_until([&] { return engine.status().applied > applied; }));
}

// ---- values that are no numbers -------------------------------------------------------------

class NoNumbers : public ChangedPolicy, public ::testing::WithParamInterface<Activation> {};

template <class T>
std::vector<T> values_of(const PolicyImage& image, const std::string& name) {
  const PlacedTensor* placed = image.find(name);
  if (placed == nullptr) return {};
  std::vector<T> values(placed->info.bytes() / sizeof(T));
  std::memcpy(values.data(), placed->data, values.size() * sizeof(T));
  return values;
}

const std::vector<float> kOdd{std::numeric_limits<float>::quiet_NaN(),
                              -std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              -0.0f,
                              std::numeric_limits<float>::denorm_min(),
                              std::numeric_limits<float>::max()};

ToyPolicy odd_policy() {
  ToyPolicy policy;
  policy.tensors.clear();
  policy.add("odd", DType::kF32, {static_cast<std::int64_t>(kOdd.size())});
  std::memcpy(policy.tensors[0].bytes->data(), kOdd.data(), kOdd.size() * sizeof(float));
  // A signalling NaN with a payload: arithmetic would quieten it.
  policy.add("signalling", DType::kI32, {1});
  policy.tensors[1].info.dtype = DType::kF32;
  const std::uint32_t bits = 0x7fa12345;
  std::memcpy(policy.tensors[1].bytes->data(), &bits, sizeof bits);
  return policy;
}

TEST_P(NoNumbers, PassUnchanged) {
  ToyPolicy policy = odd_policy();
  Publisher publisher = open(policy);
  SubscriberOptions options = subscriber_options("one");
  options.activation = GetParam();
  Subscriber engine = follow(options);
  const auto verdict = publisher.flush(soon(), policy.lister());
  ASSERT_TRUE(verdict) << verdict.status().to_string();

  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);

  const auto bits = values_of<std::uint32_t>(lease->image(), "odd");
  ASSERT_EQ(bits.size(), kOdd.size());
  EXPECT_EQ(std::memcmp(bits.data(), kOdd.data(), kOdd.size() * sizeof(float)), 0);
  EXPECT_EQ(values_of<std::uint32_t>(lease->image(), "signalling"),
            std::vector<std::uint32_t>{0x7fa12345});
}

TEST_P(NoNumbers, StayWhatTheyAreThroughACast) {
  ToyPolicy policy = odd_policy();
  PublisherOptions publisher_options_ = publisher_options();
  publisher_options_.dtype = DType::kBF16;
  Publisher publisher = open(publisher_options_, policy);
  SubscriberOptions options = subscriber_options("one");
  options.activation = GetParam();
  Subscriber engine = follow(options);
  const auto verdict = publisher.flush(soon(), policy.lister());
  ASSERT_TRUE(verdict) << verdict.status().to_string();

  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);

  ASSERT_EQ(lease->image().find("odd")->info.dtype, DType::kBF16);
  std::vector<float> values;
  for (const std::uint16_t half : values_of<std::uint16_t>(lease->image(), "odd")) {
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    values.push_back(value);
  }
  ASSERT_EQ(values.size(), kOdd.size());
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_TRUE(std::isnan(values[1]));
  EXPECT_EQ(values[2], kOdd[2]);
  EXPECT_EQ(values[3], kOdd[3]);
  EXPECT_TRUE(values[4] == 0 && std::signbit(values[4]));
  EXPECT_EQ(values[5], 0.0f);
  EXPECT_TRUE(std::isinf(values[6])) << "the greatest float rounds up to infinity in bf16";
  const auto signalling = values_of<std::uint16_t>(lease->image(), "signalling");
  ASSERT_EQ(signalling.size(), 1u);
  EXPECT_EQ(signalling[0] & 0x7f80, 0x7f80) << "no longer a NaN";
  EXPECT_NE(signalling[0] & 0x007f, 0) << "became an infinity";
}

INSTANTIATE_TEST_SUITE_P(Activations, NoNumbers,
                         ::testing::Values(Activation::kView, Activation::kFlip),
                         [](const auto& given) {
                           return given.param == Activation::kView ? "View" : "Flip";
                         });

}  // namespace
}  // namespace weightcast
