// The doctor and coordinators: living, silent, of other versions and with other keys.
#include <netinet/in.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>

#include <weightcast/keys.hpp>
#include <weightcast/publisher.hpp>

#include "base/host.hpp"
#include "base/unique_fd.hpp"
#include "integration/doctor_fixture.hpp"
#include "integration/local_job.hpp"
#include "protocol/wire.hpp"
#include "stream/control_socket.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast {
namespace {

namespace fs = std::filesystem;
using test::Report;
using test::ToyPolicy;

class DoctorJob : public test::Doctor {
 protected:
  void SetUp() override {
    ASSERT_TRUE(make_keys(keys_));
    ASSERT_TRUE(make_keys(others_));
  }

  Publisher open_trainer() {
    PublisherOptions options;
    options.job = job;
    options.directory = base_.path();
    options.listen = "127.0.0.1:0";
    options.keys = keys_;
    auto opened = Publisher::open(options, policy_.lister());
    if (!opened) throw Error(opened.status());
    return std::move(*opened);
  }

  static std::string port_of(const std::string& endpoint) {
    return endpoint.substr(endpoint.rfind(':') + 1);
  }

  /// As on a worker's host.
  std::vector<std::string> towards(const std::string& port, const std::string& keys) const {
    return {"--weightcast.coordinator=127.0.0.1:" + port, "--weightcast.keys=" + keys};
  }

  std::unique_ptr<stream::ControlServer> serve(const std::string& endpoint) const {
    auto ring = keys::KeyRing::load(keys_, keys::Role::kTrainer);
    EXPECT_TRUE(ring) << ring.status().to_string();
    auto server = stream::ControlServer::bind(
        endpoint, {}, std::make_shared<const keys::KeyRing>(std::move(*ring)));
    EXPECT_TRUE(server) << server.status().to_string();
    return std::move(*server);
  }

  /// Answers whatever comes with these bytes.
  static std::function<void()> answering(stream::ControlServer& server, const std::string& bytes) {
    return [&server, bytes] {
      while (const auto got = server.receive()) {
        EXPECT_TRUE(server.send(got->peer, std::span<const char>(bytes)).is_ok());
      }
    };
  }

  void copy_key(const std::string& from, const std::string& to) const {
    fs::copy_file(from, to, fs::copy_options::overwrite_existing);
  }

  ToyPolicy policy_;
  const std::string keys_ = output_.path() + "/keys";
  const std::string others_ = output_.path() + "/others";
};

TEST_F(DoctorJob, ALivingTrainerAnswersOnItsHostAndOverTcp) {
  const test::LogLines log;
  Publisher trainer = open_trainer();
  const std::string port = port_of(trainer.status().listening);

  const Report here = doctor();
  EXPECT_EQ(here.code, 0) << here.text;
  EXPECT_TRUE(here.has(
      "ok", "coordinator",
      {base_.path(), "answered in", "protocol " + std::to_string(protocol::kProtocolVersion)}))
      << here.text;
  EXPECT_TRUE(here.has("ok", "meeting place", {"a trainer lives here"})) << here.text;

  const Report far = doctor(towards(port, keys_));
  EXPECT_EQ(far.code, 0) << far.text;
  EXPECT_TRUE(far.has("ok", "coordinator",
                      {"127.0.0.1:" + port, "answered in", "accepts the keys in " + keys_}))
      << far.text;
  EXPECT_TRUE(far.has("ok", "keys", {keys_ + " holds what a engine needs", "set "})) << far.text;
  EXPECT_TRUE(trainer.status().receivers.empty()) << "it joined";
  EXPECT_FALSE(log.contain("handshake_failed")) << "it broke a connection off";

  auto line = towards(port, keys_);
  line.push_back("--weightcast.policy=critic");
  const Report other = doctor(line);
  EXPECT_TRUE(other.has("error", "coordinator",
                        {"publishes policy \"policy\"", "wants \"critic\"", "key policy"}))
      << other.text;
}

TEST_F(DoctorJob, KeysOfAnotherSetAreTold) {
  Publisher trainer = open_trainer();
  const std::string port = port_of(trainer.status().listening);

  const Report all_wrong = doctor(towards(port, others_));
  EXPECT_TRUE(all_wrong.has(
      "error", "keys",
      {"127.0.0.1:" + port, "does not have the trainer's key", others_, "copy one folder"}))
      << all_wrong.text;

  // Knows the trainer, which does not know it.
  copy_key(keys_ + "/trainer.public", others_ + "/trainer.public");
  fs::remove(others_ + "/trainer.secret");
  const Report unknown = doctor(towards(port, others_));
  EXPECT_TRUE(unknown.has("error", "keys",
                          {"does not accept the engine key", "engine.allowed", "engine.public"}))
      << unknown.text;

  // An engine that was given the trainer's key.
  copy_key(keys_ + "/trainer.public", others_ + "/engine.public");
  copy_key(keys_ + "/trainer.secret", others_ + "/engine.secret");
  const Report as_trainer = doctor(towards(port, others_));
  EXPECT_TRUE(as_trainer.has("error", "keys", {"takes this key for the other role's", "trainer"}))
      << as_trainer.text;
}

TEST_F(DoctorJob, ASecretThatOthersMayReadIsToldWithTheRemedy) {
  fs::permissions(keys_ + "/engine.secret", fs::perms(0644));
  const Report report = doctor(towards("1", keys_));
  EXPECT_TRUE(report.has("error", "keys", {"engine.secret", "open to other users", "chmod go="}))
      << report.text;
  const Report none = doctor(towards("1", output_.path() + "/none"));
  EXPECT_TRUE(none.has("error", "keys", {"does not exist", "weightcast keygen"})) << none.text;
}

TEST_F(DoctorJob, ACoordinatorThatCannotBeReachedIsTold) {
  const Report closed = doctor(towards("1", keys_));
  EXPECT_TRUE(
      closed.has("error", "coordinator",
                 {"127.0.0.1:1", "cannot be reached", "Connection refused", "nc -vz 127.0.0.1 1"}))
      << closed.text;
  const Report unknown =
      doctor({"--weightcast.coordinator=no-such-host.invalid:29577", "--weightcast.keys=" + keys_});
  EXPECT_TRUE(unknown.has("error", "coordinator", {"no-such-host.invalid", "is not known here"}))
      << unknown.text;
}

TEST_F(DoctorJob, AListenerThatSaysNothingIsNotWaitedForLongerThanAskedFor) {
  const base::UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&at), size), 0);
  ASSERT_EQ(::listen(listener.get(), 8), 0);
  ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
  auto line = towards(std::to_string(ntohs(at.sin_port)), keys_);
  line.push_back("--timeout=0.2");

  const Report report = doctor(line);

  EXPECT_TRUE(
      report.has("error", "keys", {"the handshake did not end in time", "is no coordinator"}))
      << report.text;
}

TEST_F(DoctorJob, OtherVersionsAreToldWithBothNumbers) {
  const auto server = serve("tcp://127.0.0.1:0");
  // A refusal as a coordinator of version 77 writes it: its number is the first field.
  std::string bytes = protocol::encode(
      {weightcast::Run{5, 6}, {protocol::Role::kReceiver, "doctor", 1}, protocol::Refused{}});
  ASSERT_EQ(bytes.substr(0, 2),
            std::string({'\x08', static_cast<char>(protocol::kProtocolVersion)}));
  bytes[1] = 77;

  const Report report =
      doctor(towards(port_of(server->endpoint()), keys_), answering(*server, bytes));

  EXPECT_TRUE(report.has(
      "error", "versions",
      {"expected protocol version " + std::to_string(protocol::kProtocolVersion) + ", got 77",
       "install the same weightcast"}))
      << report.text;
}

TEST_F(DoctorJob, NonsenseAndSilenceAreTold) {
  const auto server = serve("tcp://127.0.0.1:0");
  const std::string port = port_of(server->endpoint());
  const Report nonsense =
      doctor(towards(port, keys_), answering(*server, std::string(1000, '\xff')));
  EXPECT_TRUE(nonsense.has("error", "coordinator", {"gave an answer that is none"}))
      << nonsense.text;
  const Report welcome =
      doctor(towards(port, keys_),
             answering(*server, protocol::encode({weightcast::Run{5, 6},
                                                  {protocol::Role::kReceiver, "doctor", 1},
                                                  protocol::Welcome{}})));
  EXPECT_TRUE(welcome.has("error", "coordinator", {"did not refuse what it should"}))
      << welcome.text;
  auto line = towards(port, keys_);
  line.push_back("--timeout=0.2");
  const Report silent = doctor(line);
  EXPECT_TRUE(
      silent.has("error", "coordinator", {"gave no answer within 200ms", "stopped or overloaded"}))
      << silent.text;
}

TEST_F(DoctorJob, APortThatIsTakenIsTold) {
  const auto server = serve("tcp://127.0.0.1:0");
  const std::string at = "127.0.0.1:" + port_of(server->endpoint());
  const Report taken = doctor({"--side=trainer", "--weightcast.listen=" + at});
  EXPECT_TRUE(taken.has("error", "tcp", {at, "another process has that port", "ss -ltnp"}))
      << taken.text;
  const Report foreign = doctor(
      {"--side=trainer", "--weightcast.listen=203.0.113.7:29577", "--weightcast.keys=" + keys_});
  EXPECT_TRUE(foreign.has("error", "tcp", {"cannot be bound here", "ip -brief address"}))
      << foreign.text;
}

}  // namespace
}  // namespace weightcast
