#include "stream/control_socket.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <set>
#include <string>
#include <vector>
#include <zmq.hpp>

#include "support/child_process.hpp"
#include "support/private_place.hpp"

namespace weightcast::stream {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using test::ChildProcess;
using test::Talk;

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

std::size_t open_descriptors() {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()));
}

/// A member that says its name, then sends back what it hears until it is told to end.
int member(const Talk& talk, const std::string& endpoint, const std::string& name) {
  talk.hear();
  auto client = ControlClient::connect(endpoint);
  if (!client || !send_when_connected(**client, name)) return 1;
  while (true) {
    const auto got = wait_for_message(**client);
    if (!got) return 2;
    if (got->bytes == "end") return 0;
    if (!(*client)->send(got->bytes + " " + name)) return 3;
  }
}

class ControlSocketTest : public testing::Test {
 protected:
  std::unique_ptr<ControlServer> serve(const ControlLimits& limits = {}) {
    auto bound = ControlServer::bind(endpoint_, limits);
    EXPECT_TRUE(bound.is_ok()) << bound.status().message();
    return bound ? std::move(*bound) : nullptr;
  }
  std::unique_ptr<ControlClient> connect(const ControlLimits& limits = {}) {
    auto connected = ControlClient::connect(endpoint_, limits);
    EXPECT_TRUE(connected.is_ok()) << connected.status().message();
    return connected ? std::move(*connected) : nullptr;
  }

  test::PrivatePlace place_;
  const std::string path_ = place_.path() + "/c.sock";
  const std::string endpoint_ = "ipc://" + path_;
};

TEST_F(ControlSocketTest, ProcessesTalkWithTheCoordinator) {
  ChildProcess a([&](const Talk& talk) { return member(talk, endpoint_, "a"); });
  ChildProcess b([&](const Talk& talk) { return member(talk, endpoint_, "b"); });
  auto server = serve();
  ASSERT_TRUE(server);
  a.say("go");
  b.say("go");

  std::set<std::string> peers;
  std::set<std::string> names;
  for (int i = 0; i < 2; ++i) {
    const auto hello = wait_for_message(*server);
    ASSERT_TRUE(hello);
    peers.insert(hello->peer);
    names.insert(hello->bytes);
  }
  for (const std::string& peer : peers) {
    EXPECT_TRUE(server->send(peer, std::string("welcome")).is_ok());
  }
  EXPECT_EQ(peers.size(), 2u);
  EXPECT_EQ(names, (std::set<std::string>{"a", "b"}));
  std::set<std::string> answers;
  for (int i = 0; i < 2; ++i) {
    const auto answer = wait_for_message(*server);
    ASSERT_TRUE(answer);
    answers.insert(answer->bytes);
    EXPECT_TRUE(server->send(answer->peer, std::string("end")).is_ok());
  }

  EXPECT_EQ(answers, (std::set<std::string>{"welcome a", "welcome b"}));
  EXPECT_EQ(a.wait(), 0);
  EXPECT_EQ(b.wait(), 0);
}

TEST_F(ControlSocketTest, AKilledMemberBecomesUnavailable) {
  ChildProcess child([&](const Talk& talk) { return member(talk, endpoint_, "a"); });
  auto server = serve();
  child.say("go");
  const auto hello = wait_for_message(*server);
  ASSERT_TRUE(hello);

  child.kill();

  Status status;
  EXPECT_TRUE(wait_until(server->handle(), [&] {
    status = server->send(hello->peer, std::string("are you there?"));
    return status.code() == Code::kUnavailable;
  })) << status.to_string();
  EXPECT_EQ(server->send("nobody", std::string("x")).code(), Code::kUnavailable);
}

TEST_F(ControlSocketTest, AStoppedMemberFillsItsQueueAndNothingElse) {
  ChildProcess stopped([&](const Talk& talk) { return member(talk, endpoint_, "a"); });
  auto server = serve({.message_bytes = 1 << 20, .queued_messages = 16});
  stopped.say("go");
  const auto hello = wait_for_message(*server);
  ASSERT_TRUE(hello);
  stopped.stop();

  const std::string large(64 * 1024, 'x');
  Status status;
  int sent = 0;
  for (; sent < 1000 && (status = server->send(hello->peer, large)); ++sent) {
  }

  EXPECT_EQ(status.code(), Code::kExhausted) << status.to_string();
  // Others are served all the same.
  auto other = connect();
  ASSERT_TRUE(send_when_connected(*other, "b"));
  const auto from_other = wait_for_message(*server);
  ASSERT_TRUE(from_other);
  EXPECT_EQ(from_other->bytes, "b");
  EXPECT_TRUE(server->send(from_other->peer, std::string("hello b")).is_ok());
  EXPECT_EQ(wait_for_message(*other)->bytes, "hello b");
  // What was taken arrives once the member goes on.
  stopped.go_on();
  for (int i = 0; i < sent; ++i) {
    const auto echo = wait_for_message(*server);
    ASSERT_TRUE(echo) << "after " << i << " of " << sent;
    EXPECT_EQ(echo->bytes, large + " a");
  }
}

TEST_F(ControlSocketTest, AMemberFindsACoordinatorThatComesLaterAndComesBack) {
  auto client = connect();
  EXPECT_EQ(client->send(std::string("too early")).code(), Code::kUnavailable);
  for (int life = 0; life < 3; ++life) {
    auto server = serve();
    ASSERT_TRUE(server);
    ASSERT_TRUE(send_when_connected(*client, "life " + std::to_string(life)));
    const auto got = wait_for_message(*server);
    ASSERT_TRUE(got);
    // Nothing that was said to an earlier life comes to a later one.
    EXPECT_EQ(got->bytes, "life " + std::to_string(life));
    server.reset();
    EXPECT_FALSE(fs::exists(fs::symlink_status(path_)));
    EXPECT_TRUE(wait_until(client->handle(), [&] { return !client->send(std::string("?")); }));
  }
}

TEST_F(ControlSocketTest, OversizedMessagesEndTheirConnectionAlone) {
  auto server = serve({.message_bytes = 1000});
  auto honest = connect();
  auto hostile = connect({.message_bytes = 1 << 20});
  ASSERT_TRUE(send_when_connected(*honest, "before"));
  ASSERT_EQ(wait_for_message(*server)->bytes, "before");

  ASSERT_TRUE(send_when_connected(*hostile, std::string(1001, 'x')));
  // Once a message of its next connection is here, the large one has been dealt with.
  ASSERT_TRUE(wait_until(server->handle(), [&] {
    (void)hostile->send(std::string("small"));
    const auto got = server->receive();
    EXPECT_TRUE(!got || got->bytes == "small") << got->bytes.size();
    return got.has_value();
  }));

  ASSERT_TRUE(honest->send(std::string(1000, 'y')).is_ok());
  std::optional<Received> got;
  do {
    got = wait_for_message(*server);
  } while (got && got->bytes == "small");
  ASSERT_TRUE(got);
  EXPECT_EQ(got->bytes, std::string(1000, 'y'));
  EXPECT_EQ(server->send(got->peer, std::string(1001, 'z')).code(), Code::kInvalid);
  EXPECT_EQ(server->send(got->peer, std::string()).code(), Code::kInvalid);
  auto bounded = connect({.message_bytes = 10});
  EXPECT_EQ(bounded->send(std::string(11, 'z')).code(), Code::kInvalid);
}

TEST_F(ControlSocketTest, MessagesOfSeveralPartsAreDropped) {
  auto server = serve();
  zmq::context_t context;
  zmq::socket_t raw(context, zmq::socket_type::dealer);
  raw.set(zmq::sockopt::linger, 0);
  raw.connect(endpoint_);
  for (int i = 0; i < 200; ++i) {
    raw.send(zmq::buffer("one", 3), zmq::send_flags::sndmore);
    raw.send(zmq::buffer("two", 3), zmq::send_flags::sndmore);
    raw.send(zmq::buffer("three", 5), zmq::send_flags::none);
  }
  raw.send(zmq::buffer("good", 4), zmq::send_flags::none);

  const auto got = wait_for_message(*server);

  ASSERT_TRUE(got);
  EXPECT_EQ(got->bytes, "good");
}

TEST_F(ControlSocketTest, BytesThatAreNoZeroMqDoNoHarm) {
  auto server = serve();
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path_.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, path_.c_str(), path_.size() + 1);
  ASSERT_EQ(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  const std::string noise(4096, '\xff');
  ASSERT_EQ(::send(fd, noise.data(), noise.size(), MSG_NOSIGNAL), 4096);

  auto client = connect();
  ASSERT_TRUE(send_when_connected(*client, "hello"));
  EXPECT_EQ(wait_for_message(*server)->bytes, "hello");
  ::close(fd);
}

TEST_F(ControlSocketTest, AClosedSocketSaysItsLastWordsAndThenNothing) {
  auto server = serve();
  auto client = connect();
  ASSERT_TRUE(send_when_connected(*client, "hello"));
  ASSERT_TRUE(client->send(std::string("bye")).is_ok());
  client->close(std::chrono::duration_cast<milliseconds>(kPatience));

  EXPECT_EQ(client->send(std::string("more")).code(), Code::kCancelled);
  EXPECT_FALSE(client->receive());
  EXPECT_EQ(client->handle(), nullptr);
  const auto hello = wait_for_message(*server);
  ASSERT_TRUE(hello);
  EXPECT_EQ(wait_for_message(*server)->bytes, "bye");
  server->close(milliseconds(0));
  EXPECT_EQ(server->send(hello->peer, std::string("more")).code(), Code::kCancelled);
  EXPECT_FALSE(server->receive());
  EXPECT_EQ(server->handle(), nullptr);
  EXPECT_FALSE(fs::exists(fs::symlink_status(path_)));
}

TEST_F(ControlSocketTest, AFileInTheWayIsLeftAlone) {
  std::ofstream(path_) << "somebody's";
  const auto bound = ControlServer::bind(endpoint_);
  EXPECT_EQ(bound.status().code(), Code::kExists);
  EXPECT_NE(bound.status().message().find(path_), std::string::npos) << bound.status().message();
  EXPECT_EQ(fs::file_size(path_), 10u);

  fs::remove(path_);
  auto server = serve();
  EXPECT_EQ(ControlServer::bind(endpoint_).status().code(), Code::kExists);
  auto client = connect();
  EXPECT_TRUE(send_when_connected(*client, "the first one still listens"));
}

TEST_F(ControlSocketTest, BadEndpointsAreRefused) {
  for (const std::string& endpoint :
       {std::string(), std::string("tcp://127.0.0.1:1"), std::string("ipc://*"),
        std::string("ipc://@abstract"), std::string("ipc://relative"), std::string("inproc://x"),
        "ipc:///tmp/" + std::string(110, 'x')}) {
    EXPECT_EQ(ControlServer::bind(endpoint).status().code(), Code::kInvalid) << endpoint;
    EXPECT_EQ(ControlClient::connect(endpoint).status().code(), Code::kInvalid) << endpoint;
  }
  const auto nowhere = ControlServer::bind("ipc://" + place_.path() + "/no/such/c.sock");
  EXPECT_EQ(nowhere.status().code(), Code::kDenied) << nowhere.status().message();
}

TEST_F(ControlSocketTest, NothingGrowsWithOpeningAndClosing) {
  const auto once = [&] {
    auto server = serve();
    auto client = connect();
    ASSERT_TRUE(send_when_connected(*client, "hello"));
    EXPECT_EQ(wait_for_message(*server)->bytes, "hello");
  };
  once();
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 20; ++i) once();
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace weightcast::stream
