// Members of an NCCL communicator that find each other over the data plane's sockets.
#include <gtest/gtest.h>

#include <mutex>

#include "contract/tcp_harness.hpp"
#include "transport/nccl/session_guest.hpp"
#include "transport/nccl/session_host.hpp"
#include "transport/tcp/session_client.hpp"

namespace weightcast::transport {
namespace {

using keys::Role;
using Kind = SessionAnswer::Kind;

class TcpSessionTest : public ::testing::Test {
 protected:
  std::unique_ptr<TcpServer> serve(bool with_nccl = true) {
    TcpServerOptions serving;
    serving.keys = keys.as(Role::kTrainer);
    if (with_nccl) {
      serving.sessions = [this](const SessionAsk& ask) {
        const std::lock_guard lock(mutex);
        SessionAnswer answer = host.ask(ask, Clock::now());
        for (const SessionHost::Action& action : host.take_actions()) {
          if (action.kind != SessionHost::Action::Kind::kMakeId) continue;
          driver::NcclUniqueId id;
          id.bytes.fill(std::byte{5});
          host.id_made(action.session, id, Clock::now());
        }
        return answer;
      };
    }
    auto server = start_server(serving, slab.store());
    share = *slab.publish(0, 1, kSlotBytes, server->endpoint());
    host.offer({share.version, share.generation, 42, "GPU-source", 22809}, Clock::now());
    return server;
  }

  struct Receiver {
    std::unique_ptr<SessionClient> client;
    std::unique_ptr<SessionGuest> guest;
    void poll() {
      const auto now = Clock::now();
      if (const auto ask = guest->next_ask(now)) client->send(*ask, now);
      if (const auto answer = client->receive()) guest->answered(*answer, now);
    }
  };
  Receiver receiver(int index, std::shared_ptr<const keys::KeyRing> ring) {
    const SessionAsk ask{"engine" + std::to_string(index), 1, share.version, share.generation, 42,
                         "GPU-" + std::to_string(index),   22809, 0, 0, true};
    auto client = SessionClient::open(share, std::move(ring));
    EXPECT_TRUE(client.is_ok()) << client.status().to_string();
    return {std::move(*client), std::make_unique<SessionGuest>(options, ask, Clock::now())};
  }
  static bool ended(const Receiver& receiver) {
    return receiver.guest->phase() != SessionGuest::Phase::kAsking;
  }

  const TestKeys keys;
  TestSlab slab;
  SegmentAddress share;
  std::mutex mutex;
  SessionOptions options{.expected = 2, .window = std::chrono::minutes(5)};
  SessionHost host{options};
};

TEST_F(TcpSessionTest, AllReceiversAreToldToGoWithTheSameId) {
  const auto server = serve();
  Receiver first = receiver(1, keys.as(Role::kEngine));
  Receiver second = receiver(2, keys.as(Role::kEngine));
  ASSERT_TRUE(eventually([&] {
    first.poll();
    second.poll();
    return ended(first) && ended(second);
  }));
  ASSERT_EQ(first.guest->phase(), SessionGuest::Phase::kFlowing)
      << first.guest->status().to_string();
  ASSERT_EQ(second.guest->phase(), SessionGuest::Phase::kFlowing);
  EXPECT_EQ(first.guest->go().id, second.guest->go().id);
  EXPECT_EQ(first.guest->go().size, 3);
  EXPECT_EQ(first.guest->go().rank + second.guest->go().rank, 3);
}

TEST_F(TcpSessionTest, AServerWithoutNcclSendsToAnotherTransport) {
  const auto server = serve(false);
  Receiver one = receiver(1, keys.as(Role::kEngine));
  ASSERT_TRUE(eventually([&] {
    one.poll();
    return ended(one);
  }));
  EXPECT_EQ(one.guest->status().code(), Code::kUnavailable);
  EXPECT_NE(one.guest->status().message().find("does not send over nccl"), std::string::npos)
      << one.guest->status().message();
}

TEST_F(TcpSessionTest, ARoleThatMayNotReadMayNotAskEither) {
  const auto server = serve();
  Receiver one = receiver(1, keys.as(Role::kTrainer));
  ASSERT_TRUE(eventually([&] {
    one.poll();
    return ended(one);
  }));
  EXPECT_EQ(one.guest->phase(), SessionGuest::Phase::kFailed);
  const std::lock_guard lock(mutex);
  EXPECT_TRUE(host.take_actions().empty());
}

}  // namespace
}  // namespace weightcast::transport
