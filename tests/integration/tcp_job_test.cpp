// A job whose engines reach the trainer over TCP: joining, following, coming back.
#include <optional>

#include "integration/tcp_job.hpp"
#include "integration/two_ranks.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::soon;
using test::TcpJob;
using test::ToyPolicy;
using namespace std::chrono_literals;

TEST_F(TcpJob, ARemoteEngineAndALocalOneFollowTogether) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  Subscriber far = follow(remote("far", port_of(publisher)));
  Subscriber near = follow("near");
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));

  expect_versions(publisher, policy, far, {"far", "near"}, 20);

  EXPECT_EQ(publisher.status().refused_messages, 0u);
  EXPECT_EQ(far.status().rejoined, 0u);
}

TEST_F(TcpJob, RanksOfTheTrainerMeetOverTcpToo) {
  ToyPolicy zero;
  ToyPolicy one;
  PublisherOptions first = test::TwoRanks::with_rank(listening(), 0);
  Publisher rank_0 = open(first, zero);
  PublisherOptions second = test::TwoRanks::with_rank(publisher_options(), 1);
  second.directory = elsewhere.path();
  second.coordinator = "127.0.0.1:" + std::to_string(port_of(rank_0));
  second.keys = keys;
  Publisher rank_1 = open(second, one);
  ASSERT_TRUE(eventually([&] { return rank_1.status().connected; })) << rank_1.status().blocked;
  EXPECT_EQ(rank_1.status().listening, "");
  Subscriber engine = follow(remote("far", port_of(rank_0)));
  EXPECT_TRUE(eventually([&] {
    ++step;
    EXPECT_TRUE(rank_0.fence());
    EXPECT_TRUE(rank_1.fence());
    zero.step(step);
    one.step(step);
    rank_0.publish(zero.lister());
    rank_1.publish(one.lister());
    return engine.status().serving.number >= 3;
  })) << rank_0.status().blocked;
}

TEST_F(TcpJob, AnEngineThatIsSilentIsEvictedAndComesBack) {
  ToyPolicy policy;
  PublisherOptions options = listening();
  options.member_timeout = 500ms;
  options.attempt_timeout = 1s;
  Publisher publisher = open(options, policy);
  test::RecordingProxy proxy(port_of(publisher));
  SubscriberOptions far_options = remote("far", proxy.port());
  far_options.member_timeout = 500ms;
  Subscriber far = follow(far_options);
  Subscriber near = follow("near");
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  expect_versions(publisher, policy, far, {"far", "near"}, 3);

  proxy.hold(true);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  expect_versions(publisher, policy, near, {"near"}, 3);
  {
    const auto lease = far.acquire(soon());  // serves on what it has, whole
    ASSERT_TRUE(lease);
    EXPECT_EQ(policy.difference(lease->image(), 3), "");
  }

  proxy.hold(false);
  ASSERT_TRUE(eventually([&] { return far.status().serving == publisher.status().committed; }));
  EXPECT_GE(far.status().rejoined, 1u);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  ASSERT_TRUE(eventually([&] {
    const auto verdict = bring(publisher, policy, ++step);
    return verdict && verdict->applied.size() == 2;
  }));

  // A connection that is cut is made again, and nobody is evicted for it.
  proxy.cut();
  ASSERT_TRUE(eventually([&] {
    const auto verdict = bring(publisher, policy, ++step);
    return verdict && verdict->applied.size() == 2;
  }));
}

TEST_F(TcpJob, AnEngineFollowsTheNextRunOnTheSamePort) {
  ToyPolicy policy;
  std::optional<Publisher> publisher(open(listening(), policy));
  const std::uint16_t port = port_of(*publisher);
  Subscriber far = follow(remote("far", port));
  expect_versions(*publisher, policy, far, {"far"}, 3);
  const weightcast::Run first = publisher->status().run;
  publisher.reset();
  ASSERT_TRUE(eventually([&] { return !far.status().attached; }));

  publisher.emplace(open(listening("127.0.0.1:" + std::to_string(port)), policy));

  ASSERT_GT(publisher->status().run, first);
  EXPECT_EQ(publisher->status().listening, "tcp://127.0.0.1:" + std::to_string(port));
  expect_versions(*publisher, policy, far, {"far"}, 3);
}

TEST_F(TcpJob, WithoutKeysNobodyMeetsOtherHosts) {
  ToyPolicy policy;
  PublisherOptions options = listening("0.0.0.0:0");
  options.keys.clear();
  expect_refusal(Publisher::open(options, policy.lister()).status(), Code::kInvalid,
                 {"listen = 0.0.0.0:0", "weightcast keygen --directory", "copy"});
  PublisherOptions rank_1 = test::TwoRanks::with_rank(publisher_options(), 1);
  rank_1.coordinator = "trainer-0:29577";
  expect_refusal(Publisher::open(rank_1, policy.lister()).status(), Code::kInvalid,
                 {"coordinator = trainer-0:29577", "weightcast keygen --directory"});
  SubscriberOptions engine = remote("far", 1);
  engine.keys.clear();
  expect_refusal(Subscriber::open(engine).status(), Code::kInvalid,
                 {"coordinator = ", "weightcast keygen --directory"});
  engine.keys = of_keys.path() + "/none";
  expect_refusal(Subscriber::open(engine).status(), Code::kNotFound,
                 {"option keys", of_keys.path() + "/none", "weightcast keygen --directory"});

  // Within one host they make themselves.
  options.listen = "127.0.0.1:0";
  Publisher publisher = open(options, policy);
  const auto made = keys::KeyRing::load(place.path() + "/" + job + "/.keys", keys::Role::kEngine);
  EXPECT_TRUE(made) << made.status().to_string();
  EXPECT_NE(port_of(publisher), 0);
}

TEST_F(TcpJob, WhereItCannotListenTheOptionIsNamed) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  PublisherOptions other = listening("127.0.0.1:" + std::to_string(port_of(publisher)));
  other.policy = "critic";
  expect_refusal(Publisher::open(other, policy.lister()).status(), Code::kExists,
                 {"option listen = \"127.0.0.1:", "in use"});
  for (const char* bad : {"nonsense", "127.0.0.1:99999", "127.0.0.1"}) {
    other.listen = bad;
    EXPECT_EQ(Publisher::open(other, policy.lister()).status().code(), Code::kInvalid) << bad;
  }
}

}  // namespace
}  // namespace weightcast
