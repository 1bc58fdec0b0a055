// The control sockets over TCP: who is let in as what, and what strangers can do.
#include <gtest/gtest.h>
#include <poll.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <random>
#include <zmq.hpp>

#include "base/failpoint.hpp"
#include "base/host.hpp"
#include "keys/key_file.hpp"
#include "stream/control_socket.hpp"
#include "stream/probe.hpp"
#include "support/counts.hpp"
#include "support/private_place.hpp"
#include "support/recording_proxy.hpp"

namespace weightcast::stream {
namespace {

using std::chrono::milliseconds;

/// Far beyond what any of it takes; only a failure waits so long.
constexpr std::chrono::seconds kPatience{30};

/// Polls `handle` until `done` gives true: after every message, and at times without one.
bool wait_until(void* handle, const std::function<bool()>& done) {
  const auto deadline = Clock::now() + kPatience;
  while (!done()) {
    if (Clock::now() >= deadline) return false;
    zmq_pollitem_t item{handle, 0, ZMQ_POLLIN, 0};
    zmq::poll(&item, 1, milliseconds(5));
  }
  return true;
}

template <class Socket>
std::optional<Received> wait_for_message(Socket& socket) {
  std::optional<Received> got;
  wait_until(socket.handle(), [&] { return (got = socket.receive()).has_value(); });
  return got;
}

bool send_when_connected(ControlClient& client, const std::string& text) {
  return wait_until(client.handle(), [&] { return client.send(text).is_ok(); });
}

class ControlTcp : public testing::Test {
 protected:
  Keys keys(keys::Role role, const std::string& folder = "keys") const {
    auto ring = keys::KeyRing::load_or_make(place_.path() + "/" + folder, role);
    EXPECT_TRUE(ring) << ring.status().to_string();
    return ring ? std::make_shared<const keys::KeyRing>(std::move(*ring)) : Keys();
  }
  std::unique_ptr<ControlServer> serve(const std::string& endpoint = "tcp://127.0.0.1:0",
                                       const ControlLimits& limits = {}) const {
    auto bound = ControlServer::bind(endpoint, limits, keys(keys::Role::kTrainer));
    EXPECT_TRUE(bound) << bound.status().to_string();
    return bound ? std::move(*bound) : nullptr;
  }
  static std::unique_ptr<ControlClient> connect(const ControlServer& server, const Keys& as,
                                                const ControlLimits& limits = {}) {
    auto connected = ControlClient::connect(server.endpoint(), limits, as);
    EXPECT_TRUE(connected) << connected.status().to_string();
    return connected ? std::move(*connected) : nullptr;
  }
  static std::uint16_t port_of(const ControlServer& server) {
    const auto at = base::parse_host_port("endpoint", server.endpoint().substr(6));
    return at ? at->port : 0;
  }
  /// A client that is let in talks with the server, both ways.
  void expect_service(ControlServer& server) const {
    auto client = connect(server, keys(keys::Role::kEngine));
    ASSERT_TRUE(send_when_connected(*client, "hello"));
    const auto hello = wait_for_message(server);
    ASSERT_TRUE(hello);
    EXPECT_EQ(hello->bytes, "hello");
    EXPECT_EQ(hello->role, keys::Role::kEngine);
    ASSERT_TRUE(server.send(hello->peer, std::string("welcome")).is_ok());
    const auto answer = wait_for_message(*client);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->bytes, "welcome");
  }

  test::PrivatePlace place_;
};

TEST_F(ControlTcp, TheChosenPortIsToldAndBothRolesAreLetIn) {
  for (const char* endpoint : {"tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://*:0"}) {
    auto server = serve(endpoint);
    ASSERT_TRUE(server);
    ASSERT_NE(port_of(*server), 0) << server->endpoint();
    auto ring = keys(keys::Role::kTrainer);
    const std::string at = "tcp://127.0.0.1:" + std::to_string(port_of(*server));
    auto rank = ControlClient::connect(at, {}, ring);
    ASSERT_TRUE(rank) << rank.status().to_string();
    ASSERT_TRUE(send_when_connected(**rank, "rank 1"));
    const auto got = wait_for_message(*server);
    ASSERT_TRUE(got);
    EXPECT_EQ(got->bytes, "rank 1");
    EXPECT_EQ(got->role, keys::Role::kTrainer);
    EXPECT_EQ(server->refused_connections(), 0u);
  }
  auto server = serve();
  expect_service(*server);
}

TEST_F(ControlTcp, NamesAndIpv6AreUnderstood) {
  auto server = serve();
  auto client = ControlClient::connect("tcp://localhost:" + std::to_string(port_of(*server)), {},
                                       keys(keys::Role::kEngine));
  ASSERT_TRUE(client) << client.status().to_string();
  ASSERT_TRUE(send_when_connected(**client, "by name"));
  EXPECT_TRUE(wait_for_message(*server));

  auto six = ControlServer::bind("tcp://[::1]:0", {}, keys(keys::Role::kTrainer));
  if (!six) GTEST_SKIP() << "no IPv6 here: " << six.status().to_string();
  EXPECT_TRUE((*six)->endpoint().starts_with("tcp://[::1]:")) << (*six)->endpoint();
  expect_service(**six);
}

TEST_F(ControlTcp, NothingGoesOverTcpWithoutKeys) {
  const auto bound = ControlServer::bind("tcp://127.0.0.1:0");
  EXPECT_EQ(bound.status().code(), Code::kInvalid);
  EXPECT_NE(bound.status().message().find("weightcast keygen"), std::string::npos);
  EXPECT_EQ(ControlClient::connect("tcp://127.0.0.1:1").status().code(), Code::kInvalid);
}

TEST_F(ControlTcp, BadEndpointsAreRefused) {
  const auto trainer = keys(keys::Role::kTrainer);
  for (const char* endpoint : {"tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://:1",
                               "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1", "tcp://::1:5",
                               "tcp://a b:1", "tcp://127.0.0.1:1/x", "udp://127.0.0.1:1"}) {
    EXPECT_EQ(ControlServer::bind(endpoint, {}, trainer).status().code(), Code::kInvalid)
        << endpoint;
    EXPECT_EQ(ControlClient::connect(endpoint, {}, trainer).status().code(), Code::kInvalid)
        << endpoint;
  }
  for (const char* endpoint : {"tcp://127.0.0.1:0", "tcp://127.0.0.1:*", "tcp://0.0.0.0:5"}) {
    EXPECT_EQ(ControlClient::connect(endpoint, {}, trainer).status().code(), Code::kInvalid)
        << endpoint;
  }
  auto server = serve();
  const auto taken = ControlServer::bind(server->endpoint(), {}, trainer);
  EXPECT_EQ(taken.status().code(), Code::kExists) << taken.status().to_string();
}

TEST_F(ControlTcp, StrangersAreRefusedAndCounted) {
  auto server = serve();
  // Of another job: both keys are unknown here.
  auto other = connect(*server, keys(keys::Role::kEngine, "others"));
  ASSERT_TRUE(wait_until(server->handle(), [&] { return server->refused_connections() > 0; }));
  other.reset();

  // Knows the trainer's public key, as everybody may, but is on no list.
  const auto stranger = keys::make_pair();
  ASSERT_TRUE(stranger);
  zmq::context_t context{1};
  const auto dealer = [&](const std::function<void(zmq::socket_t&)>& prepare) {
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 0);
    prepare(socket);
    socket.connect(server->endpoint());
    socket.send(zmq::buffer(std::string("let me in")), zmq::send_flags::none);
    return socket;
  };
  auto before = server->refused_connections();
  auto unlisted = dealer([&](zmq::socket_t& socket) {
    socket.set(zmq::sockopt::curve_serverkey, keys(keys::Role::kTrainer)->own().public_key);
    socket.set(zmq::sockopt::curve_publickey, stranger->public_key);
    socket.set(zmq::sockopt::curve_secretkey, stranger->secret_key);
  });
  ASSERT_TRUE(wait_until(server->handle(), [&] { return server->refused_connections() > before; }));
  unlisted.close();

  before = server->refused_connections();
  auto bare = dealer([](zmq::socket_t&) {});
  ASSERT_TRUE(wait_until(server->handle(), [&] { return server->refused_connections() > before; }));
  bare.close();
  before = server->refused_connections();
  auto plain = dealer([](zmq::socket_t& socket) {
    socket.set(zmq::sockopt::plain_username, "engine");
    socket.set(zmq::sockopt::plain_password, "engine");
  });
  ASSERT_TRUE(wait_until(server->handle(), [&] { return server->refused_connections() > before; }));

  EXPECT_FALSE(server->receive());
  expect_service(*server);
}

TEST_F(ControlTcp, ReplayedBytesAreRefusedAndCounted) {
  auto server = serve();
  test::RecordingProxy proxy(port_of(*server));
  auto client = ControlClient::connect("tcp://127.0.0.1:" + std::to_string(proxy.port()), {},
                                       keys(keys::Role::kEngine));
  ASSERT_TRUE(client) << client.status().to_string();
  ASSERT_TRUE(send_when_connected(**client, "a word that counts once"));
  ASSERT_TRUE(wait_for_message(*server));
  const std::string said = proxy.recorded();
  ASSERT_GT(said.size(), 500u);

  for (int i = 0; i < 20; ++i) {
    const auto before = server->refused_connections();
    const auto connection = test::connect_to(port_of(*server));
    test::send_all(connection.get(), said);
    EXPECT_TRUE(test::hears_the_end(connection.get()));
    ASSERT_TRUE(
        wait_until(server->handle(), [&] { return server->refused_connections() > before; }));
  }

  EXPECT_FALSE(server->receive());
  // The one whose words they were goes on.
  ASSERT_TRUE((*client)->send(std::string("more")).is_ok());
  const auto got = wait_for_message(*server);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->bytes, "more");
}

TEST_F(ControlTcp, AProbeThatIsSlowToSpeakStillTellsWhyItIsRefused) {
  const auto server = serve();
  static ControlServer* refuser;
  static std::uint64_t before;
  refuser = server.get();
  before = 0;
  base::failpoint_handler().store([](const char* where, unsigned long long) {
    if (std::string(where) != "probe.connecting") return;
    EXPECT_TRUE(wait_until(refuser->handle(),
                           [&] { return refuser->refused_connections() > before; }));
    before = refuser->refused_connections();
    ::poll(nullptr, 0, 50);  // so that the probe's own end has heard of it, too
  });
  const auto probe = [&](const Keys& as) {
    return probe_coordinator(server->endpoint(), as, Clock::now() + kPatience);
  };
  const Probe other_server = probe(keys(keys::Role::kEngine, "others"));
  EXPECT_EQ(other_server.end, ProbeEnd::kNoHandshake) << other_server.text;

  // The server's public key, and a key of ours that it does not know.
  const std::string folder = place_.path() + "/keys", others = place_.path() + "/others";
  std::filesystem::copy_file(folder + "/trainer.public", others + "/trainer.public",
                             std::filesystem::copy_options::overwrite_existing);
  const Probe unknown = probe(keys(keys::Role::kEngine, "others"));
  EXPECT_EQ(unknown.end, ProbeEnd::kKeyDenied) << unknown.text;
  base::failpoint_handler().store(nullptr);
}

TEST_F(ControlTcp, AScannerDoesNoHarm) {
  constexpr std::uint32_t kSeed = 20261124;
  RecordProperty("seed", static_cast<int>(kSeed));
  std::mt19937 random(kSeed);
  auto server = serve();
  expect_service(*server);
  const auto before = test::Counts::now();

  for (int i = 0; i < 300; ++i) {
    const auto connection = test::connect_to(port_of(*server));
    ASSERT_TRUE(connection);
    if (i % 3 == 0) test::send_all(connection.get(), "GET / HTTP/1.0\r\n\r\n");
    if (i % 3 == 1) {
      std::string noise(1 + random() % 2000, '\0');
      for (char& c : noise) c = static_cast<char>(random());
      test::send_all(connection.get(), noise);
    }
  }

  // Those that said nothing, at least.
  EXPECT_TRUE(wait_until(server->handle(), [&] { return server->refused_connections() >= 50; }));
  EXPECT_TRUE(wait_until(server->handle(), [&] { return test::Counts::now() == before; }))
      << "before: " << before.to_string() << ", now: " << test::Counts::now().to_string();
  EXPECT_FALSE(server->receive());
  expect_service(*server);
}

TEST_F(ControlTcp, WhoSaysNothingIsCutOff) {
  auto server = serve();
  const auto silent = test::connect_to(port_of(*server));
  ASSERT_TRUE(silent);
  EXPECT_TRUE(test::hears_the_end(silent.get()));
  expect_service(*server);
}

TEST_F(ControlTcp, AConnectionThatBreaksWhileItsQueueIsFullDoesNoHarm) {
  // As of a trainer that was stopped while an engine spoke on and died. With ZeroMQ's own
  // heartbeats this ended the process (libzmq issues 3937 and 4364).
  auto server = serve("tcp://127.0.0.1:0", {.message_bytes = 1 << 20, .queued_messages = 4});
  test::RecordingProxy proxy(port_of(*server));
  auto client = ControlClient::connect("tcp://127.0.0.1:" + std::to_string(proxy.port()), {},
                                       keys(keys::Role::kEngine));
  ASSERT_TRUE(client) << client.status().to_string();
  // Refused only when all queues on the way are full: the server's thread reads nothing meanwhile.
  const std::string large(100'000, 'x');
  ASSERT_TRUE(send_when_connected(**client, large));
  for (int refused = 0; refused < 200;) {
    zmq_pollitem_t nothing{(*client)->handle(), 0, ZMQ_POLLIN, 0};
    if ((*client)->send(large)) {
      refused = 0;
    } else {
      ++refused;
      zmq::poll(&nothing, 1, milliseconds(1));
    }
  }

  proxy.cut();
  // The same I/O thread cuts this one off after three seconds: its timers have run until then.
  const auto silent = test::connect_to(port_of(*server));
  EXPECT_TRUE(test::hears_the_end(silent.get()));

  (*client)->close(milliseconds(0));
  auto next = connect(*server, keys(keys::Role::kEngine));
  ASSERT_TRUE(send_when_connected(*next, "hello"));
  EXPECT_TRUE(wait_until(server->handle(), [&] {
    const auto got = server->receive();  // after what was queued of the one that is gone
    return got && got->bytes == "hello";
  }));
}

TEST_F(ControlTcp, OversizedMessagesEndTheirConnectionAlone) {
  auto server = serve("tcp://127.0.0.1:0", {.message_bytes = 1000});
  auto hostile = connect(*server, keys(keys::Role::kEngine), {.message_bytes = 1 << 20});
  ASSERT_TRUE(send_when_connected(*hostile, std::string(2000, 'x')));
  ASSERT_TRUE(wait_until(server->handle(), [&] {
    (void)hostile->send(std::string("small"));
    const auto got = server->receive();
    EXPECT_TRUE(!got || got->bytes == "small") << got->bytes.size();
    return got.has_value();
  }));
}

TEST_F(ControlTcp, AMemberFindsACoordinatorThatComesBackOnTheSamePort) {
  auto server = serve();
  const std::string endpoint = server->endpoint();
  auto client = connect(*server, keys(keys::Role::kEngine));
  for (int life = 0; life < 3; ++life) {
    ASSERT_TRUE(send_when_connected(*client, "life " + std::to_string(life)));
    const auto got = wait_for_message(*server);
    ASSERT_TRUE(got);
    EXPECT_EQ(got->bytes, "life " + std::to_string(life));
    server.reset();
    ASSERT_TRUE(wait_until(client->handle(), [&] { return !client->send(std::string("?")); }));
    server = serve(endpoint);
    ASSERT_TRUE(server);
  }
}

TEST_F(ControlTcp, NothingGrowsWithOpeningAndClosing) {
  const auto once = [&] {
    auto server = serve();
    expect_service(*server);
    auto other = connect(*server, keys(keys::Role::kEngine, "others"));
    ASSERT_TRUE(wait_until(server->handle(), [&] { return server->refused_connections() > 0; }));
    server->close(milliseconds(0));
    EXPECT_GT(server->refused_connections(), 0u);  // still told
  };
  once();
  const auto before = test::Counts::now();
  for (int i = 0; i < 10; ++i) once();
  EXPECT_EQ(test::Counts::now().to_string(), before.to_string());
}

}  // namespace
}  // namespace weightcast::stream
