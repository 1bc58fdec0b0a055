// tcp among peers with other keys, and roles that may not ask.
#include <fstream>

#include "contract/tcp_fetch.hpp"

namespace weightcast::transport {
namespace {

using namespace std::chrono_literals;
using keys::Role;

class TcpKeysTest : public TcpTest {};

TEST_F(TcpKeysTest, OtherKeysAreRefused) {
  const auto server = start_server(serving(), slab.store());
  const auto address = *slab.publish(0, 1, kBucket, server->endpoint());
  const auto ask_with = [&](std::shared_ptr<const keys::KeyRing> ring, bool from_engine = false) {
    TcpOptions options = asking();
    options.keys = std::move(ring);
    options.give_up_after = 500ms;
    TcpTransport transport(options);
    const auto lane = open(transport);
    SegmentAddress wanted = address;
    wanted.from_engine = from_engine;
    return Fetch(*lane, wanted).expect_refused();
  };

  EXPECT_EQ(ask_with(nullptr), Code::kUnavailable) << "no keys";
  EXPECT_GE(server->counters().failed_handshakes, 1U);
  EXPECT_EQ(ask_with(TestKeys().as(Role::kEngine)), Code::kUnavailable) << "another job's keys";
  EXPECT_EQ(ask_with(job_keys.as(Role::kEngine), true), Code::kUnavailable)
      << "a trainer is no engine";
  EXPECT_EQ(server->counters().denied_handshakes, 0U) << "none had the right server key";
  EXPECT_EQ(server->counters().requests, 0U);
}

TEST_F(TcpKeysTest, AKeyOnNoListIsDeniedAtOnce) {
  const auto server = start_server(serving(), slab.store());
  // A stranger who knows the trainers' public key.
  test::PrivatePlace place;
  const std::string folder = place.path() + "/keys";
  ASSERT_TRUE(keys::KeyRing::make(folder).is_ok());
  std::ofstream(folder + "/trainer.public", std::ios::trunc)
      << job_keys.as(Role::kEngine)->server_key(Role::kTrainer) << "\n";
  auto ring = keys::KeyRing::load(folder, Role::kEngine);
  ASSERT_TRUE(ring.is_ok()) << ring.status().to_string();
  TcpOptions options = asking();
  options.keys = std::make_shared<const keys::KeyRing>(std::move(*ring));
  TcpTransport transport(options);
  const auto lane = open(transport);

  EXPECT_EQ(Fetch(*lane, *slab.publish(0, 1, kBucket, server->endpoint())).expect_refused(),
            Code::kDenied);
  EXPECT_GE(server->counters().denied_handshakes, 1U);
  EXPECT_EQ(server->counters().requests, 0U);
}

TEST_F(TcpKeysTest, ARoleThatMayNotAskIsDenied) {
  TcpServerOptions options = serving();
  options.clients = {Role::kTrainer};
  const auto server = start_server(options, slab.store());
  TcpTransport transport(asking());
  const auto lane = open(transport);

  EXPECT_EQ(Fetch(*lane, *slab.publish(0, 1, kBucket, server->endpoint())).expect_refused(),
            Code::kDenied);
  EXPECT_GE(server->counters().refused, 1U);
  EXPECT_EQ(server->counters().bytes_sent, 0U);
  EXPECT_TRUE(slab.can_overwrite(0));
}

}  // namespace
}  // namespace weightcast::transport
