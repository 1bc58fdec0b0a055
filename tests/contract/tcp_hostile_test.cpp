// A tcp server among strangers: floods, noise, scanners and hostile requests.
#include <netinet/in.h>
#include <sys/socket.h>

#include <random>
#include <zmq.hpp>

#include "base/unique_fd.hpp"
#include "contract/tcp_harness.hpp"
#include "keys/zap.hpp"
#include "transport/tcp/wire.hpp"

namespace weightcast::transport {
namespace {

using namespace std::chrono_literals;
using keys::Role;

/// A bare DEALER that sends what it likes.
class RawPeer {
 public:
  explicit RawPeer(const std::string& endpoint, const keys::KeyRing* ring = nullptr) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::sndhwm, 0);
    socket_.set(zmq::sockopt::rcvtimeo, 30000);
    if (ring != nullptr) {
      EXPECT_TRUE(keys::use_keys(socket_.handle(), *ring, Role::kTrainer).is_ok());
    }
    socket_.connect(endpoint);
  }
  void send(const std::string& bytes) { socket_.send(zmq::buffer(bytes), zmq::send_flags::none); }
  void send(const DataRequest& request) { send(encode(request)); }
  /// The next reply's header.
  DataReply hear() {
    zmq::message_t header;
    if (!socket_.recv(header)) {
      ADD_FAILURE() << "no reply within half a minute";
      return {};
    }
    for (bool more = header.more(); more;) {
      zmq::message_t rest;
      static_cast<void>(socket_.recv(rest));
      more = rest.more();
    }
    auto reply = decode_reply({header.data<std::byte>(), header.size()});
    EXPECT_TRUE(reply.is_ok()) << reply.status().to_string();
    return reply.is_ok() ? *reply : DataReply{};
  }

 private:
  zmq::context_t context_{1};
  zmq::socket_t socket_{context_, zmq::socket_type::dealer};
};

class TcpHostileTest : public ::testing::Test {
 protected:
  const TestKeys keys;
  TestSlab slab;

  TcpServerOptions serving() const {
    TcpServerOptions options;
    options.keys = keys.as(Role::kTrainer);
    return options;
  }

  /// That an ordinary receiver still gets what it wants.
  void expect_served(const TcpServer& server, std::shared_ptr<const keys::KeyRing> ring) {
    TcpOptions options;
    options.keys = std::move(ring);
    TcpTransport transport(options);
    auto lane = transport.open_lane({});
    ASSERT_TRUE(lane.is_ok());
    const auto address = slab.publish(2, 77, kSlotBytes, server.endpoint());
    ASSERT_TRUE(address);
    const auto segment = (*lane)->acquire(*address);
    ASSERT_TRUE(segment.is_ok());
    std::vector<std::byte> space(kSlotBytes);
    ASSERT_TRUE((*lane)->submit(*segment, {1, 0, space, {}}).is_ok());
    for (const auto& completion : take(**lane, 1)) {
      EXPECT_TRUE(completion.status.is_ok()) << completion.status.to_string();
    }
    EXPECT_EQ(test::first_difference(space, 77), space.size());
  }

  static DataRequest bucket_of(const SegmentAddress& address, std::uint64_t id) {
    return {.id = id, .kind = RequestKind::kBucket, .segment = address, .bytes = kSlotBytes};
  }
};

TEST_F(TcpHostileTest, AFloodIsRefusedAndCounted) {
  TcpServerOptions options = serving();
  options.limits.requests_a_peer = 8;
  options.limits.bytes_a_peer = 4 * kSlotBytes;
  const auto server = start_server(options, slab.store());
  const auto engine = keys.as(Role::kEngine);
  const auto address = *slab.publish(0, 1, kSlotBytes, server->endpoint());
  RawPeer flooder(server->endpoint(), engine.get());
  constexpr std::uint64_t kRequests = 5000;

  for (std::uint64_t id = 1; id <= kRequests; ++id) flooder.send(bucket_of(address, id));

  ASSERT_TRUE(eventually([&] { return server->counters().refused > 0; }));
  expect_served(*server, engine);
  // It reads nothing, so what is sent to it stays below what it may have under way, and what the
  // sockets take in.
  EXPECT_TRUE(eventually([&] { return server->counters().refused > kRequests / 2; }));
  EXPECT_EQ(server->counters().invalid, 0U);
}

TEST_F(TcpHostileTest, WhoHoldsTooMuchIsRefused) {
  TcpServerOptions options = serving();
  options.limits.holds_a_peer = 1;
  options.limits.peers = 1;
  const auto server = start_server(options, slab.store());
  const auto engine = keys.as(Role::kEngine);
  const auto first = *slab.publish(0, 1, 1000, server->endpoint());
  const auto second = *slab.publish(1, 2, 1000, server->endpoint());
  const auto hold = [](const SegmentAddress& address, std::uint64_t id) {
    return DataRequest{.id = id, .kind = RequestKind::kHold, .segment = address};
  };
  RawPeer peer(server->endpoint(), engine.get());

  peer.send(hold(first, 1));
  EXPECT_TRUE(peer.hear().status.is_ok());
  peer.send(hold(second, 2));
  EXPECT_EQ(peer.hear().status.code(), Code::kExhausted);
  RawPeer other(server->endpoint(), engine.get());
  other.send(hold(second, 3));
  EXPECT_EQ(other.hear().status.code(), Code::kExhausted);
  EXPECT_TRUE(slab.can_overwrite(1));
  EXPECT_FALSE(slab.can_overwrite(0));

  peer.send({.id = 4, .kind = RequestKind::kRelease, .segment = first});
  peer.send(hold(second, 5));
  EXPECT_TRUE(peer.hear().status.is_ok());
  EXPECT_TRUE(slab.can_overwrite(0));
  EXPECT_FALSE(slab.can_overwrite(1));
}

TEST_F(TcpHostileTest, WhoFallsSilentHoldsNothingSoon) {
  TcpServerOptions options = serving();
  options.limits.silence = 100ms;
  const auto server = start_server(options, slab.store());
  const auto engine = keys.as(Role::kEngine);
  const auto address = *slab.publish(0, 1, 1000, server->endpoint());
  {
    RawPeer dead(server->endpoint(), engine.get());
    dead.send({.id = 1, .kind = RequestKind::kHold, .segment = address});
    EXPECT_TRUE(dead.hear().status.is_ok());
  }
  EXPECT_TRUE(eventually([&] { return slab.can_overwrite(0); }));
  EXPECT_TRUE(eventually([&] { return server->counters().peers == 0; }));

  RawPeer mute(server->endpoint(), engine.get());
  mute.send({.id = 1, .kind = RequestKind::kHold, .segment = address});
  EXPECT_TRUE(mute.hear().status.is_ok());
  EXPECT_TRUE(eventually([&] { return slab.can_overwrite(0); }));
}

TEST_F(TcpHostileTest, ScannersAndNoiseDoNoHarm) {
  const auto server = start_server(serving(), slab.store());
  const std::uint16_t port = static_cast<std::uint16_t>(
      std::stoul(server->endpoint().substr(server->endpoint().rfind(':') + 1)));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  std::mt19937_64 random(20261124);
  for (int i = 0; i < 200; ++i) {
    const base::UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    std::string text = "GET / HTTP/1.0\r\n\r\n";
    if (i % 4 == 1) text.clear();
    if (i % 4 > 1) {
      // Noise, half of it behind a greeting of ZeroMQ's.
      if (i % 4 == 3) text = std::string("\xff\0\0\0\0\0\0\0\x01\x7f\x03\0", 12) + "CURVE";
      for (int k = 0; k < 500; ++k) text += static_cast<char>(random());
    }
    static_cast<void>(::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL));
  }

  expect_served(*server, keys.as(Role::kEngine));
  EXPECT_TRUE(eventually([&] { return server->counters().failed_handshakes >= 50; }))
      << server->counters().failed_handshakes;
  EXPECT_EQ(server->counters().denied_handshakes, 0U);
  EXPECT_EQ(server->counters().invalid, 0U) << "noise has come through to the requests";
}

TEST_F(TcpHostileTest, RequestsThatMakeNoSenseAreDropped) {
  const auto server = start_server({}, slab.store());  // so that noise reaches the requests
  const auto address = *slab.publish(0, 1, kSlotBytes, server->endpoint());
  const unsigned seed = 4711;
  std::mt19937_64 random(seed);
  const std::string good = encode(bucket_of(address, 1));
  RawPeer peer(server->endpoint());
  constexpr int kRequests = 3000;
  for (int i = 0; i < kRequests; ++i) {
    std::string bytes = good;
    if (i % 3 == 0) {
      bytes.resize(random() % 300);
      for (char& c : bytes) c = static_cast<char>(random());
    } else {
      for (std::uint64_t flips = 1 + random() % 4; flips > 0; --flips) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
      if (i % 3 == 1) bytes.resize(random() % bytes.size());
    }
    peer.send(bytes);
  }
  EXPECT_TRUE(eventually([&] { return server->counters().requests == kRequests; })) << seed;
  EXPECT_GT(server->counters().invalid, kRequests / 3U) << seed;

  RawPeer large(server->endpoint());
  large.send(std::string(kMaxRequestBytes + 1, 'x'));
  expect_served(*server, nullptr);
}

TEST_F(TcpHostileTest, HostileRangesAreDropped) {
  const auto server = start_server({}, slab.store());
  const auto address = *slab.publish(0, 1, 1000, server->endpoint());
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  RawPeer peer(server->endpoint());
  const auto ask = [&](std::uint64_t offset, std::uint64_t bytes, std::vector<Strip> strips = {}) {
    peer.send({.id = 9,
               .kind = RequestKind::kBucket,
               .segment = address,
               .offset = offset,
               .bytes = bytes,
               .strips = std::move(strips)});
  };
  ask(0, 1001);
  ask(kHuge, 2);
  ask(1, kHuge);
  ask(0, 20, {{0, 10, 2, 991}});
  ask(0, kHuge, {{0, 1, kHuge, 0}});
  ask(0, 8, {{kHuge - 3, 8, 1, 0}});
  ask(0, 4, {{0, 10, 2, 20}});
  ask(0, kMaxStrips + 1, std::vector<Strip>(kMaxStrips + 1, Strip{0, 1, 1, 0}));
  SegmentAddress larger = address;
  larger.payload_bytes = kHuge;
  peer.send({.id = 10, .kind = RequestKind::kHold, .segment = larger});

  EXPECT_EQ(peer.hear().id, 10U);
  EXPECT_EQ(server->counters().invalid, 8U);
  EXPECT_EQ(server->counters().bytes_sent, 0U);
  EXPECT_TRUE(slab.can_overwrite(0));
}

}  // namespace
}  // namespace weightcast::transport
