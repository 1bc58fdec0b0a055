// A job whose engines reach the trainer over TCP, and what strangers and floods do to it.
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include <weightcast/keys.hpp>

#include "base/host.hpp"
#include "integration/two_ranks.hpp"
#include "protocol/wire.hpp"
#include "stream/control_socket.hpp"
#include "support/counts.hpp"
#include "support/tcp_proxy.hpp"

namespace weightcast {
namespace {

using test::ToyPolicy;
using namespace std::chrono_literals;
namespace wire = protocol;
using test::eventually;
using test::has;
using test::soon;

class TcpJob : public test::LocalJob {
 protected:
  void SetUp() override { ASSERT_TRUE(make_keys(keys).is_ok()); }

  PublisherOptions listening(const std::string& at = "127.0.0.1:0") const {
    PublisherOptions options = publisher_options();
    options.listen = at;
    options.keys = keys;
    return options;
  }

  /// An engine as on another host: nobody announces anything where it looks.
  SubscriberOptions remote(const std::string& name, std::uint16_t port) const {
    SubscriberOptions options = subscriber_options(name);
    options.directory = elsewhere.path();
    options.coordinator = "127.0.0.1:" + std::to_string(port);
    options.keys = keys;
    return options;
  }

  static std::uint16_t port_of(const Publisher& publisher) {
    const std::string at = publisher.status().listening;
    EXPECT_TRUE(at.starts_with("tcp://127.0.0.1:")) << at;
    const auto parsed = base::parse_host_port("listening", at.substr(6));
    return parsed ? parsed->port : 0;
  }

  void expect_versions(Publisher& publisher, ToyPolicy& policy, Subscriber& engine,
                       const std::set<std::string>& names, int count) {
    for (int i = 0; i < count; ++i) {
      const auto verdict = bring(publisher, policy, ++step);
      ASSERT_TRUE(verdict) << verdict.status().to_string();
      ASSERT_EQ(std::set<std::string>(verdict->applied.begin(), verdict->applied.end()), names);
      ASSERT_EQ(verdict->lost, std::vector<std::string>{});
      const auto lease = engine.acquire(soon());
      ASSERT_TRUE(lease) << lease.status().to_string();
      ASSERT_EQ(lease->version(), verdict->version);
      ASSERT_EQ(policy.difference(lease->image(), step), "");
    }
  }

  /// A peer that says what it likes, with keys of that role.
  std::unique_ptr<stream::ControlClient> stranger(std::uint16_t port, keys::Role role) const {
    auto ring = keys::KeyRing::load(keys, role);
    EXPECT_TRUE(ring) << ring.status().to_string();
    auto client =
        stream::ControlClient::connect("tcp://127.0.0.1:" + std::to_string(port), {},
                                       std::make_shared<const keys::KeyRing>(std::move(*ring)));
    EXPECT_TRUE(client) << client.status().to_string();
    return std::move(*client);
  }

  static bool say(stream::ControlClient& client, const wire::Message& message) {
    return eventually(
        [&] { return client.send(std::span<const char>(wire::encode(message))).is_ok(); });
  }

  static std::optional<wire::Message> hear(stream::ControlClient& client) {
    std::optional<wire::Message> heard;
    eventually([&] {
      if (const auto got = client.receive()) {
        auto message = wire::decode(std::as_bytes(std::span(got->bytes.data(), got->bytes.size())));
        if (message) heard = std::move(*message);
      }
      return heard.has_value();
    });
    return heard;
  }

  test::PrivatePlace elsewhere;
  test::PrivatePlace of_keys;
  const std::string keys = of_keys.path() + "/keys";
  std::uint64_t step = 0;
};

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
  test::TcpProxy proxy(port_of(publisher));
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
                 {"option listen = \"0.0.0.0:0\"", "weightcast keygen --directory", "copy"});
  PublisherOptions rank_1 = test::TwoRanks::with_rank(publisher_options(), 1);
  rank_1.coordinator = "trainer-0:29577";
  expect_refusal(Publisher::open(rank_1, policy.lister()).status(), Code::kInvalid,
                 {"option coordinator = \"trainer-0:29577\"", "weightcast keygen --directory"});
  SubscriberOptions engine = remote("far", 1);
  engine.keys.clear();
  expect_refusal(Subscriber::open(engine).status(), Code::kInvalid,
                 {"option coordinator", "weightcast keygen --directory"});
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

TEST_F(TcpJob, AnEngineWithTheWrongKeysIsRefusedAndSaysWhatToLookAt) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  Subscriber good = follow(remote("good", port_of(publisher)));
  expect_versions(publisher, policy, good, {"good"}, 1);
  ASSERT_TRUE(make_keys(of_keys.path() + "/others"));
  SubscriberOptions options = remote("other", port_of(publisher));
  options.keys = of_keys.path() + "/others";
  Subscriber other = follow(options);

  ASSERT_TRUE(eventually([&] { return publisher.status().refused_messages > 0; }));
  expect_versions(publisher, policy, good, {"good"}, 10);
  expect_refusal(other.acquire(Clock::now()).status(), Code::kDeadline,
                 {"no trainer", "keys", options.coordinator});
  EXPECT_FALSE(other.status().attached);
}

TEST_F(TcpJob, APeerOfTheWrongRoleIsRefusedAndCounted) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  const std::uint16_t port = port_of(publisher);
  Subscriber good = follow(remote("good", port));
  expect_versions(publisher, policy, good, {"good"}, 1);
  const weightcast::Run run = publisher.status().run;

  wire::Hello hello;
  hello.policy = "policy";
  wire::Hello as_source = hello;
  as_source.world_size = 1;
  const wire::Member rank_0{wire::Role::kSource, "rank-0", ~std::uint64_t{0} - 1};
  const wire::Member worker{wire::Role::kReceiver, "worker", 1};
  const wire::Member victim{wire::Role::kReceiver, "good", ~std::uint64_t{0} - 1};
  struct Lie {
    keys::Role key;
    wire::Message message;
  };
  const std::vector<Lie> lies{{keys::Role::kEngine, {run, rank_0, as_source}},
                              {keys::Role::kEngine, {run, rank_0, wire::Bye{}}},
                              {keys::Role::kEngine, {run, rank_0, wire::FlushRequest{1, 1, 1}}},
                              {keys::Role::kTrainer, {run, worker, hello}},
                              {keys::Role::kTrainer, {run, victim, wire::Bye{}}}};
  for (const Lie& lie : lies) {
    const auto before = publisher.status().refused_messages;
    auto liar = stranger(port, lie.key);
    ASSERT_TRUE(say(*liar, lie.message));
    const auto answer = hear(*liar);
    ASSERT_TRUE(answer);
    const auto* refused = std::get_if<wire::Refused>(&answer->body);
    ASSERT_NE(refused, nullptr);
    EXPECT_EQ(refused->reason, wire::Refusal::kRole);
    EXPECT_TRUE(has(refused->message, "connected with the key of role ")) << refused->message;
    EXPECT_TRUE(eventually([&] { return publisher.status().refused_messages > before; }));
  }
  EXPECT_EQ(publisher.status().receivers.size(), 1u);
  EXPECT_TRUE(publisher.status().connected);
  expect_versions(publisher, policy, good, {"good"}, 10);
  EXPECT_EQ(good.status().rejoined, 0u);
}

TEST_F(TcpJob, ReplayedBytesAreRefusedAndTheJobGoesOn) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  const std::uint16_t port = port_of(publisher);
  test::TcpProxy proxy(port);
  Subscriber good = follow(remote("good", proxy.port()));
  expect_versions(publisher, policy, good, {"good"}, 5);
  const std::string said = proxy.recorded();
  ASSERT_GT(said.size(), 1000u);

  for (int i = 0; i < 20; ++i) {
    const auto before = publisher.status().refused_messages;
    const auto connection = test::connect_to(port);
    test::send_all(connection.get(), said);
    EXPECT_TRUE(test::hears_the_end(connection.get()));
    ASSERT_TRUE(eventually([&] { return publisher.status().refused_messages > before; }));
  }

  EXPECT_EQ(publisher.status().receivers.size(), 1u);
  expect_versions(publisher, policy, good, {"good"}, 5);
  EXPECT_EQ(good.status().rejoined, 0u);
  EXPECT_EQ(good.status().dropped_messages, 0u);
}

TEST_F(TcpJob, FloodsLoseNothing) {
  constexpr std::uint32_t kSeed = 20261125;
  constexpr int kMessages = 30'000;
  constexpr int kConnections = 3'000;
  RecordProperty("seed", static_cast<int>(kSeed));
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  const std::uint16_t port = port_of(publisher);
  Subscriber good = follow(remote("good", port));
  expect_versions(publisher, policy, good, {"good"}, 20);  // every slot has been mapped once
  const auto before = test::Counts::now();
  const auto refused_before = publisher.status().refused_messages;
  const weightcast::Run run = publisher.status().run;

  auto flood = stranger(port, keys::Role::kEngine);
  std::atomic<int> sent{0};
  std::atomic<int> connected{0};
  {
    // One with a key that is allowed, which says nothing that makes sense, as fast as it can.
    std::thread messages([&] {
      std::mt19937 random(kSeed);
      const std::string states[] = {
          wire::encode({run, {wire::Role::kReceiver, "nobody", 1}, wire::ReceiverState{}}),
          wire::encode({run, {wire::Role::kReceiver, "nobody", 1}, wire::Bye{}}),
          wire::encode({run, {wire::Role::kSource, "rank-0", 1}, wire::SourceState{}})};
      const auto deadline = soon();
      while (sent < kMessages && Clock::now() < deadline) {
        std::string noise(1 + random() % 3000, '\0');
        for (char& c : noise) c = static_cast<char>(random());
        const std::string& bytes = sent % 4 == 3 ? noise : states[sent % 4];
        if (flood->send(std::span<const char>(bytes))) {
          ++sent;
        } else {
          std::this_thread::yield();
        }
      }
    });
    // One that connects again and again, and says half of a greeting, or nothing.
    std::thread connections([&] {
      std::vector<base::UniqueFd> open;
      const auto deadline = soon();
      while (connected < kConnections && Clock::now() < deadline) {
        open.push_back(test::connect_to(port));
        if (!open.back()) continue;
        if (connected % 2 == 0) test::send_all(open.back().get(), std::string("\xff\0\0\0", 4));
        ++connected;
        if (open.size() == 300) open.clear();
      }
    });
    for (int i = 0; (sent < kMessages || connected < kConnections || i < 20) && !HasFailure();
         ++i) {
      expect_versions(publisher, policy, good, {"good"}, 1);
    }
    messages.join();
    connections.join();
  }

  EXPECT_EQ(sent, kMessages);
  EXPECT_EQ(connected, kConnections);
  EXPECT_TRUE(eventually([&] {
    return publisher.status().refused_messages > refused_before + 10'000;
  })) << publisher.status().refused_messages;
  flood.reset();
  EXPECT_EQ(publisher.status().receivers.size(), 1u);
  EXPECT_EQ(good.status().rejoined, 0u);
  EXPECT_TRUE(eventually([&] { return test::Counts::now() == before; }))
      << "before: " << before.to_string() << ", now: " << test::Counts::now().to_string();
  expect_versions(publisher, policy, good, {"good"}, 5);
}

TEST_F(TcpJob, AScannerOnThePortDoesNoHarm) {
  constexpr std::uint32_t kSeed = 20261126;
  RecordProperty("seed", static_cast<int>(kSeed));
  std::mt19937 random(kSeed);
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  const std::uint16_t port = port_of(publisher);
  Subscriber good = follow(remote("good", port));
  expect_versions(publisher, policy, good, {"good"}, 20);  // every slot has been mapped once
  const auto before = test::Counts::now();

  for (int i = 0; i < 300; ++i) {
    const auto connection = test::connect_to(port);
    ASSERT_TRUE(connection);
    if (i % 3 == 0) test::send_all(connection.get(), "GET / HTTP/1.0\r\n\r\n");
    if (i % 3 == 1) {
      std::string noise(1 + random() % 500, '\0');
      for (char& c : noise) c = static_cast<char>(random());
      test::send_all(connection.get(), noise);
    }
    if (i % 30 == 0) expect_versions(publisher, policy, good, {"good"}, 1);
  }

  EXPECT_TRUE(eventually([&] { return test::Counts::now() == before; }))
      << "before: " << before.to_string() << ", now: " << test::Counts::now().to_string();
  EXPECT_GE(publisher.status().refused_messages, 50u);  // those that said nothing, at least
  expect_versions(publisher, policy, good, {"good"}, 5);
  EXPECT_EQ(good.status().rejoined, 0u);
}

}  // namespace
}  // namespace weightcast
