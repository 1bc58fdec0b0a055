// What strangers, liars and floods do to a job that listens on TCP.
#include <atomic>
#include <random>
#include <thread>

#include "integration/tcp_job.hpp"
#include "support/counts.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::TcpJob;
using test::ToyPolicy;
namespace wire = protocol;

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
  test::RecordingProxy proxy(port);
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

  // Those that said nothing, at least.
  EXPECT_TRUE(eventually([&] { return publisher.status().refused_messages >= 50; }));
  EXPECT_TRUE(eventually([&] { return test::Counts::now() == before; }))
      << "before: " << before.to_string() << ", now: " << test::Counts::now().to_string();
  expect_versions(publisher, policy, good, {"good"}, 5);
  EXPECT_EQ(good.status().rejoined, 0u);
}

}  // namespace
}  // namespace weightcast
