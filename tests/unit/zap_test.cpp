#include "keys/zap.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <mutex>
#include <zmq.hpp>

#include <weightcast/log.hpp>
#include <weightcast/types.hpp>

#include "keys/key_file.hpp"
#include "support/private_place.hpp"

namespace weightcast::keys {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds kPatience{30};

/// A protected server in a context of its own, in the order in which owners keep them.
struct Server {
  explicit Server(std::shared_ptr<const KeyRing> ring) {
    auto started = Zap::start(context.handle(), std::move(ring));
    EXPECT_TRUE(started) << started.status().to_string();
    zap = std::move(*started);
    socket = zmq::socket_t(context, zmq::socket_type::router);
    socket.set(zmq::sockopt::linger, 0);
    EXPECT_TRUE(zap->protect(socket.handle()).is_ok());
    socket.bind("tcp://127.0.0.1:*");
    endpoint = socket.get(zmq::sockopt::last_endpoint);
  }

  bool wait_until(const std::function<bool()>& done) {
    const auto deadline = Clock::now() + kPatience;
    while (!done()) {
      if (Clock::now() >= deadline) return false;
      zmq_pollitem_t item{socket.handle(), 0, ZMQ_POLLIN, 0};
      zmq::poll(&item, 1, milliseconds(5));
    }
    return true;
  }

  /// The next message's text and its connection's role.
  std::optional<std::pair<std::string, std::optional<Role>>> receive() {
    std::optional<std::pair<std::string, std::optional<Role>>> got;
    wait_until([&] {
      zmq::message_t peer;
      zmq::message_t body;
      if (!socket.recv(peer, zmq::recv_flags::dontwait)) return false;
      if (!socket.recv(body, zmq::recv_flags::dontwait)) return false;
      got.emplace(body.to_string(), role_of_message(body.handle()));
      return true;
    });
    return got;
  }

  zmq::context_t context{1};
  std::unique_ptr<Zap> zap;
  zmq::socket_t socket;
  std::string endpoint;
};

struct Client {
  Client(const std::string& endpoint, const std::function<void(zmq::socket_t&)>& prepare) {
    socket.set(zmq::sockopt::linger, 0);
    prepare(socket);
    socket.connect(endpoint);
    socket.send(zmq::buffer(std::string("hello")), zmq::send_flags::none);
  }
  Client(const std::string& endpoint, const KeyRing& ring)
      : Client(endpoint, [&](zmq::socket_t& raw) {
          EXPECT_TRUE(use_keys(raw.handle(), ring, Role::kTrainer).is_ok());
        }) {}

  zmq::context_t context{1};
  zmq::socket_t socket{context, zmq::socket_type::dealer};
};

class ZapTest : public testing::Test {
 protected:
  static KeyRing ring(const std::string& folder, Role role) {
    auto made = KeyRing::load_or_make(folder, role);
    if (!made) throw Error(made.status());
    return std::move(*made);
  }

  test::PrivatePlace place_;
  const std::string folder_ = place_.path() + "/keys";
  Server server_{std::make_shared<const KeyRing>(ring(folder_, Role::kTrainer))};
};

TEST_F(ZapTest, MessagesCarryTheRoleOfTheKeyByWhichTheyCame) {
  for (const Role role : {Role::kEngine, Role::kTrainer}) {
    const Client client(server_.endpoint, ring(folder_, role));
    const auto got = server_.receive();
    ASSERT_TRUE(got);
    EXPECT_EQ(got->first, "hello");
    EXPECT_EQ(got->second, role);
  }
  EXPECT_EQ(server_.zap->denied(), 0u);
}

TEST_F(ZapTest, WhoIsOnNoListIsDeniedCountedAndNamed) {
  std::mutex mutex;
  std::string log;
  set_log_sink([&](LogLevel, std::string_view line) {
    const std::lock_guard lock(mutex);
    log += std::string(line) + "\n";
  });
  const auto stranger = make_pair();
  ASSERT_TRUE(stranger);
  const std::string server_key = ring(folder_, Role::kTrainer).own().public_key;
  const Client client(server_.endpoint, [&](zmq::socket_t& socket) {
    socket.set(zmq::sockopt::curve_serverkey, server_key);
    socket.set(zmq::sockopt::curve_publickey, stranger->public_key);
    socket.set(zmq::sockopt::curve_secretkey, stranger->secret_key);
  });

  EXPECT_TRUE(server_.wait_until(
      [&] { return server_.zap->denied() > 0 && server_.zap->failed_handshakes() > 0; }));
  set_log_sink({});
  const std::lock_guard lock(mutex);
  EXPECT_NE(log.find("event=connection_denied key=" + stranger->public_key + " from=127.0.0.1"),
            std::string::npos)
      << log;
  EXPECT_NE(log.find("add the key to trainer.allowed"), std::string::npos) << log;
  EXPECT_EQ(log.find(stranger->secret_key), std::string::npos);
}

TEST_F(ZapTest, NoKeysAndTheWrongServerKeyAreCounted) {
  const Client bare(server_.endpoint, [](zmq::socket_t&) {});
  EXPECT_TRUE(server_.wait_until([&] { return server_.zap->failed_handshakes() > 0; }));
  const auto before = server_.zap->failed_handshakes();
  const Client other(server_.endpoint, ring(place_.path() + "/others", Role::kEngine));
  EXPECT_TRUE(server_.wait_until([&] { return server_.zap->failed_handshakes() > before + 3; }));
  EXPECT_EQ(server_.zap->denied(), 0u);  // it did not get so far

  // Nothing of theirs came through, and others do.
  const Client good(server_.endpoint, ring(folder_, Role::kEngine));
  const auto got = server_.receive();
  ASSERT_TRUE(got);
  EXPECT_EQ(got->second, Role::kEngine);
}

TEST_F(ZapTest, AContextHasOneHandler) {
  const auto again = Zap::start(server_.context.handle(),
                                std::make_shared<const KeyRing>(ring(folder_, Role::kTrainer)));
  EXPECT_EQ(again.status().code(), Code::kExists) << again.status().to_string();
}

TEST_F(ZapTest, ItEndsWithConnectionsInTheMiddleOfAnything) {
  const KeyRing engine = ring(folder_, Role::kEngine);
  const auto own = std::make_shared<const KeyRing>(ring(folder_, Role::kTrainer));
  for (int i = 0; i < 30; ++i) {
    Server server(own);
    const Client good(server.endpoint, engine);
    const Client bare(server.endpoint, [](zmq::socket_t&) {});
    if (i % 3 == 0) {
      EXPECT_TRUE(server.receive());
    }
  }
  SUCCEED() << "or it would hang here";
}

}  // namespace
}  // namespace weightcast::keys
