// Mode p2p and the tcp transport over real sockets: paces, relays, and what a storm costs the trainer.
#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "integration/local_job.hpp"

namespace weightcast {
namespace {

using namespace test;

class PacesOverTcp : public LocalJob {
 protected:
  PublisherOptions trainer(Mode mode) const {
    PublisherOptions options = publisher_options();
    options.mode = mode;
    options.transport = TransportChoice::kTcp;
    options.min_receivers = 0;
    return options;
  }
  SubscriberOptions engine(const std::string& name,
                           Activation activation = Activation::kFlip) const {
    SubscriberOptions options = subscriber_options(name);
    options.transport = TransportChoice::kTcp;
    options.activation = activation;
    return options;
  }
  /// Whether a lease shows the bytes of `step`, the newest one.
  static std::string looks_wrong(Subscriber& engine, const ToyPolicy& policy, std::uint64_t step) {
    const auto lease = engine.acquire(soon());
    return lease ? policy.difference(lease->image(), step) : lease.status().to_string();
  }
  static std::uint64_t bytes_of(const ToyPolicy& policy) {
    return std::accumulate(policy.tensors.begin(), policy.tensors.end(), std::uint64_t{0},
                           [](std::uint64_t sum, const auto& it) { return sum + it.info.bytes(); });
  }
};

TEST_F(PacesOverTcp, EnginesServeThoseWhoJoinAndTheTrainerSendsFewPolicies) {
  constexpr int kJoiners = 12;
  ToyPolicy policy(20);
  Publisher publisher = open(trainer(Mode::kP2p), policy);
  policy.step(1);
  publisher.publish(policy.lister());
  ASSERT_TRUE(publisher.flush(soon(), policy.lister()));

  std::vector<Subscriber> joiners;
  for (int i = 0; i < kJoiners; ++i) joiners.push_back(follow(engine("e" + std::to_string(i))));

  for (Subscriber& joiner : joiners) EXPECT_EQ(looks_wrong(joiner, policy, 1), "");
  std::uint64_t relayed = 0;
  for (const Subscriber& joiner : joiners) relayed += joiner.status().relayed_bytes;
  // Two at a time are fed by the trainer until the first of them serves; one more may slip between.
  EXPECT_LE(publisher.status().sent_bytes, 4 * bytes_of(policy));
  EXPECT_GE(relayed, (kJoiners - 4) * bytes_of(policy));
}

TEST_F(PacesOverTcp, AnEngineWithAHeldLeaseHoldsNobodyUp) {
  ToyPolicy policy;
  Publisher publisher = open(trainer(Mode::kP2p), policy);
  Subscriber slow = follow(engine("slow"));
  Subscriber quick = follow(engine("quick"));
  policy.step(1);
  publisher.publish(policy.lister());
  const auto held = slow.acquire(soon());
  ASSERT_TRUE(held);
  const Version first = held->version();

  for (std::uint64_t step = 2; step <= 12; ++step) {
    EXPECT_TRUE(publisher.fence());
    policy.step(step);
    publisher.publish(policy.lister());
    ASSERT_TRUE(eventually([&] { return looks_wrong(quick, policy, step).empty(); })) << step;
  }

  EXPECT_EQ(held->version(), first);
  EXPECT_EQ(policy.difference(held->image(), 1), "");
}

TEST_F(PacesOverTcp, BroadcastBringsEveryActivationTheSameBits) {
  ToyPolicy policy(4);
  Publisher publisher = open(trainer(Mode::kBroadcast), policy);
  std::vector<Subscriber> engines;
  engines.push_back(follow(engine("flip", Activation::kFlip)));
  engines.push_back(follow(engine("staged", Activation::kStaged)));
  engines.push_back(follow(engine("serial", Activation::kSerial)));
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 3; }));

  for (std::uint64_t step = 1; step <= 5; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    EXPECT_EQ(verdict->applied.size(), 3u);
    for (Subscriber& it : engines) {
      EXPECT_EQ(looks_wrong(it, policy, step), "") << it.options().name;
      EXPECT_EQ(it.status().transport, "tcp");
    }
  }
}

TEST_F(PacesOverTcp, AnEngineThatDoesNotRelayIsSparedAndTheTrainerServes) {
  ToyPolicy policy;
  Publisher publisher = open(trainer(Mode::kP2p), policy);
  policy.step(1);
  publisher.publish(policy.lister());
  std::vector<Subscriber> joiners;
  for (int i = 0; i < 5; ++i) {
    SubscriberOptions options = engine("e" + std::to_string(i));
    options.relay = false;
    joiners.push_back(follow(options));
  }

  for (Subscriber& joiner : joiners) EXPECT_EQ(looks_wrong(joiner, policy, 1), "");
  for (const Subscriber& joiner : joiners) EXPECT_EQ(joiner.status().relayed_bytes, 0u);
  EXPECT_GE(publisher.status().sent_bytes, 5 * bytes_of(policy));
}

TEST_F(PacesOverTcp, AJoinerOutlivesTheEngineThatServesIt) {
  ToyPolicy policy(20);
  Publisher publisher = open(trainer(Mode::kP2p), policy);
  policy.step(1);
  publisher.publish(policy.lister());
  auto relay = std::make_unique<Subscriber>(follow(engine("relay")));
  ASSERT_EQ(looks_wrong(*relay, policy, 1), "");
  Subscriber joiner = follow(engine("joiner"));

  relay.reset();

  EXPECT_EQ(looks_wrong(joiner, policy, 1), "");
}

}  // namespace
}  // namespace weightcast
