// A trainer and an engine that show metrics: what is scraped is what their status() says.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "integration/local_job.hpp"
#include "metrics/use.hpp"
#include "support/http_get.hpp"
#include "support/prometheus_text.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::PrometheusText;
using test::read_prometheus;
using test::soon;
using test::ToyPolicy;

class Metrics : public test::LocalJob {
 protected:
  std::string labels(const std::string& member, const std::string& more = {}) const {
    return "{trainer_job=\"" + job + "\",policy=\"policy\",member=\"" + member + "\"" + more + "}";
  }
  Publisher trainer(ToyPolicy& policy, const std::string& where) const {
    PublisherOptions options = publisher_options();
    options.metrics = where;
    return open(options, policy);
  }
  Subscriber engine(const std::string& where) const {
    SubscriberOptions options = subscriber_options("engine");
    options.activation = Activation::kFlip;
    options.metrics = where;
    return follow(options);
  }
};

TEST_F(Metrics, AreWhatStatusSays) {
  ToyPolicy policy;
  Publisher publisher = trainer(policy, "0");
  Subscriber subscriber = engine("0");
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  for (std::uint64_t step = 1; step <= 3; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
  }
  publisher.publish(policy.lister());  // captured or coalesced: a point in any case
  publisher.skip("the step failed");
  ASSERT_TRUE(eventually([&] { return subscriber.status().applied >= 3; }));
  { const auto lease = subscriber.acquire(soon()); ASSERT_TRUE(lease); }
  const auto held = subscriber.acquire(soon());
  ASSERT_TRUE(held);

  // The numbers stand still once nothing is under way; a look in between may be of either moment, and
  // the spans of a version end a moment after it is applied.
  const std::string rank = "rank-0";
  PrometheusText text;
  const bool agree = eventually([&] {
    const PublisherStatus before = publisher.status();
    const SubscriberStatus engine_before = subscriber.status();
    text = read_prometheus(test::scrape(metrics::where()));
    const auto points = [&](const char* outcome) {
      return text.of("weightcast_publisher_points_total" +
                     labels(rank, ",outcome=\"" + std::string(outcome) + "\""));
    };
    const auto spans = [&](const char* stage) {
      return text.of("weightcast_stage_seconds_count{stage=\"" + std::string(stage) + "\"}");
    };
    return spans("publish") >= 3 && spans("switch") >= 3 &&
           points("captured") == double(before.captured) &&
           points("coalesced") == double(before.coalesced) &&
           points("void") == double(before.voided) &&
           text.of("weightcast_publisher_committed_version" + labels(rank)) ==
               double(before.committed.number) &&
           text.of("weightcast_publisher_published_version" + labels(rank)) ==
               double(before.published.number) &&
           text.of("weightcast_subscriber_applied_total" + labels("engine")) ==
               double(engine_before.applied) &&
           text.of("weightcast_subscriber_serving_version" + labels("engine")) ==
               double(engine_before.serving.number);
  });
  EXPECT_TRUE(agree);
  const PublisherStatus status = publisher.status();
  const auto of = [&](const std::string& name, const std::string& member,
                      const std::string& more = {}) {
    return text.of("weightcast_" + name + labels(member, more));
  };
  EXPECT_GE(status.captured, 3u);
  EXPECT_EQ(of("publisher_voids_total", rank, ",reason=\"skipped\""), 1);
  EXPECT_EQ(text.sum("weightcast_publisher_voids_total"), double(status.voided));
  EXPECT_EQ(of("publisher_slots", rank), 4);
  EXPECT_GE(of("publisher_slots_held", rank), 1);
  EXPECT_EQ(of("publisher_connected", rank), 1);
  EXPECT_EQ(of("coordinator_receivers", rank, ",state=\"active\""), 1);
  EXPECT_EQ(of("coordinator_evictions_total", rank, ",role=\"receiver\""), 0);
  EXPECT_GE(of("coordinator_commits_total", rank), 3);
  EXPECT_EQ(of("subscriber_attached", "engine"), 1);
  EXPECT_EQ(of("subscriber_activation_info", "engine", ",activation=\"flip\""), 1);
  EXPECT_EQ(of("subscriber_leases", "engine"), 1);
  EXPECT_EQ(of("subscriber_lease_seconds_count", "engine"), 1);
  EXPECT_EQ(of("subscriber_acquire_staleness_versions_count", "engine"), 2);
  EXPECT_EQ(text.sum("weightcast_subscriber_attempts_failed_total"),
            double(subscriber.status().failed));
  // A version's bytes for each switch, all by shared memory; those are counted before the switch is.
  std::uint64_t bytes = 0;
  for (const PlacedTensor& tensor : held->image().tensors()) bytes += tensor.info.bytes();
  EXPECT_GE(of("subscriber_received_bytes_total", "engine", ",transport=\"shm\""),
            double(bytes) * of("subscriber_applied_total", "engine"));
  EXPECT_EQ(of("subscriber_received_bytes_total", "engine", ",transport=\"tcp\""), 0);
  // Stages are counted by the spans.
  const auto stage = [&](const std::string& name) {
    return text.of("weightcast_stage_seconds_count{stage=\"" + name + "\"}");
  };
  EXPECT_GE(stage("hook"), 3);
  EXPECT_GE(stage("fence"), 3);
  EXPECT_GE(stage("place"), 3);
  EXPECT_EQ(stage("other"), 0);
}

TEST_F(Metrics, RefusedAcquiresAreCountedByTheirReason) {
  Subscriber subscriber = engine("0");
  EXPECT_FALSE(subscriber.acquire(Clock::now()));
  const auto text = read_prometheus(test::scrape(metrics::where()));
  EXPECT_EQ(text.of("weightcast_subscriber_acquires_refused_total" +
                    labels("engine", ",reason=\"deadline\"")),
            1);
  EXPECT_EQ(text.of("weightcast_subscriber_attached" + labels("engine")), 0);
}

TEST_F(Metrics, AMemberIsSeenFromItsOpeningToItsEnd) {
  ToyPolicy policy;
  Publisher publisher = trainer(policy, "0");
  const std::string url = metrics::where();
  const std::string applied = "weightcast_subscriber_applied_total" + labels("engine");
  {
    const Subscriber subscriber = engine("0");
    EXPECT_EQ(metrics::where(), url) << "one place a process";
    EXPECT_TRUE(read_prometheus(test::scrape(url)).has(applied));
  }
  EXPECT_FALSE(read_prometheus(test::scrape(url)).has(applied));
  EXPECT_TRUE(read_prometheus(test::scrape(url))
                  .has("weightcast_publisher_connected" + labels("rank-0")));
}

TEST_F(Metrics, AFileHasTheLastWord) {
  const std::string path = place.path() + "/rank-0.prom";
  ToyPolicy policy;
  std::uint64_t voided = 0;
  {
    Publisher publisher = trainer(policy, place.path() + "/%n.prom");
    for (int i = 0; i < 5; ++i) publisher.skip("no step");
    voided = publisher.status().voided;
  }
  std::ifstream file(path);
  const auto text = read_prometheus({std::istreambuf_iterator<char>(file), {}});
  EXPECT_EQ(text.of("weightcast_publisher_points_total" + labels("rank-0", ",outcome=\"void\"")),
            double(voided));
  EXPECT_EQ(voided, 5u);
}

TEST_F(Metrics, ATakenPortIsRefusedWhenAMemberOpens) {
  base::UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener.get(), 1), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string port = std::to_string(ntohs(address.sin_port));

  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.metrics = port;
  expect_refusal(Publisher::open(options, policy.lister()).status(), Code::kExists,
                 {"option metrics = \"" + port + "\"", "127.0.0.1:" + port, "a port of its own"});
  SubscriberOptions engines = subscriber_options("engine");
  engines.metrics = port;
  expect_refusal(Subscriber::open(engines).status(), Code::kExists, {"option metrics", port});
  engines.metrics = "nowhere";
  expect_refusal(Subscriber::open(engines).status(), Code::kInvalid, {"option metrics", ".prom"});
  EXPECT_EQ(metrics::where(), "");
  EXPECT_NO_THROW(static_cast<void>(open(policy))) << "without metrics nothing stands in the way";
}

}  // namespace
}  // namespace weightcast
