// tcp on a bad network, and beside servers that come and go.
#include "contract/tcp_fetch.hpp"
#include "support/tcp_proxy.hpp"

namespace weightcast::transport {
namespace {

using namespace std::chrono_literals;
using keys::Role;

class TcpFaultsTest : public TcpTest {};

TEST_F(TcpFaultsTest, ACutConnectionResumesAtTheBucket) {
  const auto server = start_server(serving(), slab.store());
  test::TcpProxy proxy(server->endpoint());
  TcpOptions options = asking();
  options.credit_bytes = 4 * kBucket;
  TcpTransport transport(options);
  const auto lane = open(transport);

  for (std::uint64_t number = 1; number <= 3; ++number) {
    const auto address = slab.publish(number % kSlots, number, kSlotBytes, proxy.endpoint());
    ASSERT_TRUE(address);
    const auto before = server->counters().bytes_sent;
    const auto resent = transport.counters().resent;
    proxy.cut_after(kSlotBytes / 2);
    Fetch(*lane, *address).expect_whole();
    const auto lost_bytes = server->counters().bytes_sent - before - kSlotBytes;
    const auto again = transport.counters().resent - resent;
    EXPECT_GE(again, 1U);
    // What was on its way, and on a loaded machine what was then late.
    EXPECT_LT(again, kSlotBytes / kBucket / 2) << "it did not go on where it was";
    EXPECT_LE(lost_bytes, again * kBucket) << "more was sent again than was asked for again";
  }
  EXPECT_EQ(proxy.cuts(), 3U);
  EXPECT_EQ(transport.counters().lost, 3U);
  EXPECT_EQ(transport.counters().corrupt, 0U);
}

TEST_F(TcpFaultsTest, AVersionIsHeldWhileItsConnectionIsGone) {
  const auto server = start_server(serving(), slab.store());
  test::TcpProxy proxy(server->endpoint());
  TcpTransport transport(asking());
  const auto lane = open(transport);
  const auto address = slab.publish(0, 1, kSlotBytes, proxy.endpoint());
  const auto segment = lane->acquire(*address);
  ASSERT_TRUE(segment.is_ok());
  ASSERT_TRUE(eventually([&] { return !slab.can_overwrite(0); }));

  proxy.set({.refuse = true});
  proxy.cut();
  ASSERT_TRUE(eventually([&] { return transport.counters().lost == 1; }));
  EXPECT_FALSE(slab.can_overwrite(0));
  proxy.set({});
  Fetch(*lane, *address).expect_whole();
}

TEST_F(TcpFaultsTest, OnlyTheSpoiledBucketIsAskedForAgain) {
  std::atomic<int> count{0};
  TcpServerOptions spoiling = serving();
  spoiling.spoil = [&] { return ++count == 5; };
  const auto server = start_server(spoiling, slab.store());
  TcpTransport transport(asking());
  const auto lane = open(transport);

  Fetch(*lane, *slab.publish(0, 1, kSlotBytes, server->endpoint())).expect_whole();

  EXPECT_EQ(server->counters().spoiled, 1U);
  EXPECT_EQ(transport.counters().corrupt, 1U);
  EXPECT_EQ(transport.counters().resent, 1U);
  EXPECT_EQ(server->counters().bytes_sent, kSlotBytes + kBucket);
}

TEST_F(TcpFaultsTest, WhatTheReceiverChecksItselfNeedsADigestOnlyWithoutEncryption) {
  for (const bool encrypted : {true, false}) {
    TcpServerOptions spoiling = encrypted ? serving() : TcpServerOptions{};
    std::atomic<int> count{0};
    spoiling.spoil = [&] { return ++count == 1; };
    const auto server = start_server(spoiling, slab.store());
    TcpTransport transport(encrypted ? asking() : TcpOptions{});
    const auto lane = open(transport);
    const auto address = slab.publish(0, 1, 1000, server->endpoint());
    ASSERT_TRUE(address);
    const auto segment = lane->acquire(*address);
    ASSERT_TRUE(segment.is_ok());
    std::vector<std::byte> space(1000);
    Bucket bucket{.id = 1, .destination = space, .place = {}};
    bucket.checked_later = true;
    ASSERT_TRUE(lane->submit(*segment, std::move(bucket)).is_ok());
    for (const auto& completion : take(*lane, 1)) EXPECT_TRUE(completion.status.is_ok());

    EXPECT_EQ(transport.counters().corrupt, encrypted ? 0U : 1U);
    EXPECT_EQ(test::first_difference(space, 1), encrypted ? 500U : 1000U);
  }
}

TEST_F(TcpFaultsTest, ABucketThatAlwaysComesSpoiledIsAMismatch) {
  TcpServerOptions spoiling = serving();
  spoiling.spoil = [] { return true; };
  const auto server = start_server(spoiling, slab.store());
  TcpTransport transport(asking());
  const auto lane = open(transport);

  EXPECT_EQ(Fetch(*lane, *slab.publish(0, 1, 2 * kBucket, server->endpoint())).expect_refused(),
            Code::kMismatch);
  EXPECT_TRUE(eventually([&] { return slab.can_overwrite(0); }));
}

TEST_F(TcpFaultsTest, AFlippedBitIsFoundByTheDigestWhereNothingIsEncrypted) {
  const auto server = start_server({}, slab.store());
  test::TcpProxy proxy(server->endpoint());
  TcpTransport transport{TcpOptions{}};
  const auto lane = open(transport);
  proxy.flip_after(kSlotBytes / 2);  // far from any header
  const auto address = slab.publish(0, 1, kSlotBytes, proxy.endpoint());
  const auto segment = lane->acquire(*address);
  ASSERT_TRUE(segment.is_ok());
  std::vector<std::byte> space(kSlotBytes);

  ASSERT_TRUE(lane->submit(*segment, {1, 0, space, {}}).is_ok());
  for (const auto& completion : take(*lane, 1)) EXPECT_TRUE(completion.status.is_ok());

  EXPECT_EQ(proxy.flips(), 1U);
  EXPECT_EQ(transport.counters().corrupt, 1U);
  EXPECT_EQ(test::first_difference(space, 1), space.size());
}

TEST_F(TcpFaultsTest, AFlippedBitBreaksAnEncryptedConnectionAndNothingElse) {
  const auto server = start_server(serving(), slab.store());
  test::TcpProxy proxy(server->endpoint());
  TcpTransport transport(asking());
  const auto lane = open(transport);
  proxy.flip_after(kSlotBytes / 2);

  Fetch(*lane, *slab.publish(0, 1, kSlotBytes, proxy.endpoint())).expect_whole();

  EXPECT_EQ(proxy.flips(), 1U);
  EXPECT_EQ(transport.counters().corrupt, 0U);
  EXPECT_GE(transport.counters().connected, 2U);
}

TEST_F(TcpFaultsTest, AServerThatRestartsIsFoundAgain) {
  auto server = start_server(serving(), slab.store());
  test::TcpProxy proxy(server->endpoint());
  proxy.set({.bytes_per_second = 2'000'000});
  TcpOptions options = asking();
  options.credit_bytes = 4 * kBucket;  // so that the rest has not been asked for yet
  TcpTransport transport(options);
  const auto lane = open(transport);
  Fetch fetch(*lane, *slab.publish(0, 1, kSlotBytes, proxy.endpoint()));
  ASSERT_TRUE(eventually([&] { return proxy.forwarded() > kSlotBytes / 4; }));

  server.reset();
  proxy.set({});
  server = start_server(serving(), slab.store());
  proxy.lead_to(server->endpoint());

  fetch.expect_whole();
  EXPECT_GE(transport.counters().connected, 2U);
}

TEST_F(TcpFaultsTest, AHalfOpenConnectionIsBegunAnew) {
  const auto server = start_server(serving(), slab.store());
  test::TcpProxy proxy(server->endpoint());
  TcpTransport transport(asking());
  const auto lane = open(transport);
  Fetch(*lane, *slab.publish(0, 1, kSlotBytes, proxy.endpoint())).expect_whole();

  proxy.set({.half_open = true});
  Fetch fetch(*lane, *slab.publish(1, 2, kSlotBytes, proxy.endpoint()));
  ASSERT_TRUE(eventually([&] { return transport.counters().resent > 0; }));
  proxy.set({});

  fetch.expect_whole();
  EXPECT_EQ(transport.counters().connected, 2U);
}

TEST_F(TcpFaultsTest, ASlowAndDistantNetworkOnlyTakesLonger) {
  const auto server = start_server(serving(), slab.store());
  test::TcpProxy proxy(server->endpoint());
  proxy.set({.bytes_per_second = 1'500'000, .delay = 30ms});
  TcpTransport transport(asking());
  const auto lane = open(transport);

  Fetch(*lane, *slab.publish(0, 1, kSlotBytes, proxy.endpoint())).expect_whole();

  EXPECT_EQ(transport.counters().lost, 0U);
}

TEST_F(TcpFaultsTest, WhereNobodyListensIsUnavailable) {
  std::string endpoint;
  {
    const auto server = start_server(serving(), slab.store());
    endpoint = server->endpoint();
  }
  TcpOptions options = asking();
  options.give_up_after = 300ms;
  TcpTransport transport(options);
  const auto lane = open(transport);

  EXPECT_EQ(Fetch(*lane, *slab.publish(0, 1, kBucket, endpoint)).expect_refused(),
            Code::kUnavailable);
  const auto no_endpoint = lane->acquire(*slab.publish(0, 1, kBucket, ""));
  ASSERT_FALSE(no_endpoint.is_ok());
  EXPECT_EQ(no_endpoint.status().code(), Code::kInvalid);
}

TEST_F(TcpFaultsTest, AReplyOnItsWayHoldsItsSlotAndACutLetsGo) {
  constexpr std::uint64_t kLarge = 24 << 20;  // more than sockets and the proxy take in
  TestSlab large(kLarge);
  const auto server = start_server(serving(), large.store());
  test::TcpProxy proxy(server->endpoint());
  TcpOptions options = asking();
  options.credit_bytes = kLarge;
  TcpTransport transport(options);
  auto lane = open(transport);
  const auto address = large.publish(0, 1, kLarge, proxy.endpoint());
  proxy.set({.bytes_per_second = 200'000});
  {
    std::vector<std::byte> space(kLarge);
    auto segment = lane->acquire(*address);
    ASSERT_TRUE(segment.is_ok());
    for (std::uint64_t at = 0; at < kLarge; at += 1 << 20) {
      const auto to = std::span(space).subspan(at, 1 << 20);
      ASSERT_TRUE(lane->submit(*segment, {at, at, to, {}}).is_ok());
    }
    // More where a loaded machine makes it ask again.
    ASSERT_TRUE(eventually([&] { return server->counters().bytes_sent >= kLarge; }));
    lane->abort();
    take(*lane, kLarge >> 20);
  }
  // The release has come (it goes the fast way), the reply has not gone.
  ASSERT_TRUE(eventually([&] { return server->counters().holds == 0; }));
  EXPECT_FALSE(large.can_overwrite(0));

  proxy.cut();

  EXPECT_TRUE(eventually([&] { return large.can_overwrite(0); }));
}

TEST_F(TcpFaultsTest, ClosingAServerLetsGo) {
  const auto server = start_server(serving(), slab.store());
  TcpTransport transport(asking());
  const auto lane = open(transport);
  const auto address = *slab.publish(0, 1, kSlotBytes, server->endpoint());
  const auto segment = lane->acquire(address);
  ASSERT_TRUE(segment.is_ok());
  ASSERT_TRUE(eventually([&] { return !slab.can_overwrite(0); }));

  EXPECT_TRUE(server->close(within(30s)).is_ok());

  EXPECT_TRUE(slab.can_overwrite(0));
}

TEST_F(TcpFaultsTest, TwoLanesAndTwoServersAtOnce) {
  const auto server = start_server(serving(), slab.store());
  TcpServerOptions relaying = serving();
  relaying.keys = job_keys.as(Role::kEngine);
  const auto relay = start_server(relaying, slab.store());
  TcpTransport transport(asking());
  const auto one = open(transport);
  const auto other = open(transport);
  for (std::uint64_t number = 1; number <= 9; number += 2) {
    const auto address = slab.publish(0, number, kSlotBytes, server->endpoint());
    auto from_engine = slab.publish(1, number + 1, kSlotBytes, relay->endpoint());
    ASSERT_TRUE(address && from_engine);
    from_engine->from_engine = true;
    Fetch first(*one, *address);
    Fetch second(*other, *from_engine);
    Fetch third(*other, *address);
    first.expect_whole();
    take(*other, 2 * ((kSlotBytes + kBucket - 1) / kBucket));
    ASSERT_TRUE(eventually([&] { return slab.can_overwrite(0) && slab.can_overwrite(1); }));
  }
  EXPECT_EQ(relay->counters().bytes_sent, 5 * kSlotBytes);
  EXPECT_EQ(server->counters().bytes_sent, 10 * kSlotBytes);
}

}  // namespace
}  // namespace weightcast::transport
