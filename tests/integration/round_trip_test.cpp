// One trainer and its workers in one process, over real sockets and real shared memory.
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "support/private_place.hpp"
#include "support/shm_fixture.hpp"
#include "support/toy_policy.hpp"

namespace weightcast {
namespace {

using namespace std::chrono_literals;
using test::ToyPolicy;

Deadline in(Duration duration) { return Clock::now() + duration; }

class RoundTrip : public ::testing::TestWithParam<Activation> {
 protected:
  PublisherOptions publisher_options() const {
    PublisherOptions options;
    options.job = job;
    options.directory = place.path();
    options.stall = 5s;
    options.heartbeat = 20ms;
    options.member_timeout = 2s;
    return options;
  }
  SubscriberOptions subscriber_options(const std::string& name) const {
    SubscriberOptions options;
    options.job = job;
    options.directory = place.path();
    options.name = name;
    options.activation = GetParam();
    options.heartbeat = 20ms;
    return options;
  }

  void TearDown() override { EXPECT_TRUE(test::shm_objects(job).empty()); }

  const std::string job = test::unique_job();
  test::PrivatePlace place;
};

TEST_P(RoundTrip, EveryLeaseHoldsTheTrainersBytes) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.max_coalesced = 0;
  options.min_receivers = 2;
  auto publisher = Publisher::open(options, policy.lister());
  ASSERT_TRUE(publisher) << publisher.status().to_string();
  auto one = Subscriber::open(subscriber_options("one"));
  auto two = Subscriber::open(subscriber_options("two"));
  ASSERT_TRUE(one) << one.status().to_string();
  ASSERT_TRUE(two) << two.status().to_string();

  for (std::uint64_t step = 1; step <= 50; ++step) {
    ASSERT_TRUE(publisher->fence());
    policy.step(step);
    const PointResult point = publisher->publish(policy.lister());
    ASSERT_EQ(point.kind, PointResult::Kind::kCaptured) << point.why;
    const auto verdict = publisher->flush(in(10s), policy.lister());
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    ASSERT_EQ(verdict->version.number, step);
    ASSERT_EQ(verdict->applied.size(), 2u);
    for (Subscriber* subscriber : {&*one, &*two}) {
      const auto lease = subscriber->acquire(in(5s));
      ASSERT_TRUE(lease) << lease.status().to_string();
      ASSERT_EQ(lease->version().number, step);
      ASSERT_EQ(policy.difference(lease->image(), step), "");
    }
  }
}

TEST_P(RoundTrip, AWorkerThatLeavesWithAVersionHasAppliedIt) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.min_receivers = 1;
  auto publisher = Publisher::open(options, policy.lister());
  ASSERT_TRUE(publisher) << publisher.status().to_string();
  for (std::uint64_t step = 1; step <= 10; ++step) {
    auto worker = Subscriber::open(subscriber_options("brief"));
    ASSERT_TRUE(worker) << worker.status().to_string();
    ASSERT_TRUE(publisher->fence());
    policy.step(step);
    PointResult point;
    do {
      point = publisher->publish(policy.lister());
    } while (point.kind != PointResult::Kind::kCaptured);
    ASSERT_TRUE(worker->wait_for(point.point, in(10s)));
    worker = Status(Code::kCancelled, "gone as soon as it has seen it");

    const auto verdict = publisher->flush(in(10s), policy.lister());

    ASSERT_TRUE(verdict) << verdict.status().to_string();
    EXPECT_EQ(verdict->applied, std::vector<std::string>{"brief"});
  }
}

TEST_P(RoundTrip, ALeaseKeepsItsVersionWhileNewOnesCome) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.min_receivers = 1;
  auto publisher = Publisher::open(options, policy.lister());
  ASSERT_TRUE(publisher) << publisher.status().to_string();
  auto subscriber = Subscriber::open(subscriber_options("one"));
  ASSERT_TRUE(subscriber) << subscriber.status().to_string();
  policy.step(1);
  ASSERT_TRUE(publisher->flush(in(10s), policy.lister()));
  const auto old = subscriber->acquire(in(5s));
  ASSERT_TRUE(old);

  policy.step(2);
  publisher->publish(policy.lister());
  ASSERT_TRUE(publisher->flush(in(10s), policy.lister()));

  EXPECT_EQ(policy.difference(old->image(), 1), "");
  const auto fresh = subscriber->acquire(in(5s));
  ASSERT_TRUE(fresh);
  EXPECT_GT(fresh->version(), old->version());
  EXPECT_EQ(policy.difference(fresh->image(), 2), "");
}

TEST_P(RoundTrip, AnEngineOutlivesItsTrainerAndFollowsTheNextRun) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.min_receivers = 1;
  auto subscriber = Subscriber::open(subscriber_options("one"));
  ASSERT_TRUE(subscriber) << subscriber.status().to_string();
  std::optional<Publisher> publisher;
  {
    auto opened = Publisher::open(options, policy.lister());
    ASSERT_TRUE(opened) << opened.status().to_string();
    publisher.emplace(std::move(*opened));
  }
  policy.step(1);
  ASSERT_TRUE(publisher->flush(in(10s), policy.lister()));
  const weightcast::Run first = publisher->status().run;
  publisher.reset();
  {
    const auto lease = subscriber->acquire(in(1s));
    ASSERT_TRUE(lease) << lease.status().to_string();
    EXPECT_EQ(policy.difference(lease->image(), 1), "");
  }
  {
    auto opened = Publisher::open(options, policy.lister());
    ASSERT_TRUE(opened) << opened.status().to_string();
    publisher.emplace(std::move(*opened));
  }
  EXPECT_GT(publisher->status().run, first);
  policy.step(2);
  const auto verdict = publisher->flush(in(20s), policy.lister());
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  const auto lease = subscriber->acquire(in(1s));
  ASSERT_TRUE(lease);
  EXPECT_EQ(lease->version(), verdict->version);
  EXPECT_EQ(policy.difference(lease->image(), 2), "");
}

INSTANTIATE_TEST_SUITE_P(Activations, RoundTrip,
                         ::testing::Values(Activation::kView, Activation::kFlip),
                         [](const auto& given) {
                           return given.param == Activation::kView ? "View" : "Flip";
                         });

}  // namespace
}  // namespace weightcast
