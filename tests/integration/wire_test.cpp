// Peers that send what no member of ours would: the trainer, the engine and all others go on.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <zmq.hpp>

#include "integration/local_job.hpp"
#include "protocol/wire.hpp"
#include "stream/control_socket.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast {
namespace {

using test::eventually;
using test::has;
using test::soon;
using test::ToyPolicy;
using namespace std::chrono_literals;
namespace wire = protocol;

constexpr unsigned kSeed = 20261;

/// A peer that says whatever it likes.
class Stranger {
 public:
  explicit Stranger(const std::string& endpoint) : socket_(context_, zmq::socket_type::dealer) {
    socket_.set(zmq::sockopt::linger, 0);
    socket_.set(zmq::sockopt::sndhwm, 0);
    socket_.connect(endpoint);
  }
  void send(const std::string& bytes) { socket_.send(zmq::buffer(bytes), zmq::send_flags::none); }
  void send_parts(const std::vector<std::string>& parts) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      socket_.send(zmq::buffer(parts[i]), i + 1 < parts.size() ? zmq::send_flags::sndmore
                                                               : zmq::send_flags::none);
    }
  }
  void send(const wire::Message& message) { send(wire::encode(message)); }

  /// The first answer of that kind.
  template <class Body>
  std::optional<Body> hear() {
    const auto deadline = soon();
    while (Clock::now() < deadline) {
      zmq_pollitem_t item{socket_.handle(), 0, ZMQ_POLLIN, 0};
      zmq::poll(&item, 1, 50ms);
      zmq::message_t got;
      if (!socket_.recv(got, zmq::recv_flags::dontwait)) continue;
      const auto message =
          wire::decode(std::as_bytes(std::span(got.data<char>(), got.size())));
      if (!message) continue;
      if (const auto* body = std::get_if<Body>(&message->body)) return *body;
    }
    return std::nullopt;
  }

 private:
  zmq::context_t context_;
  zmq::socket_t socket_;
};

/// Bytes of every kind that is not what it should be, made from messages that are.
std::vector<std::string> spoiled(const std::vector<wire::Message>& messages) {
  std::mt19937 random(kSeed);
  std::vector<std::string> all{"", std::string(1, '\0'), std::string(100'000, '\xff'),
                               std::string(1 << 20, 'x')};
  for (const wire::Message& message : messages) {
    const std::string good = wire::encode(message);
    for (std::size_t size = 1; size < good.size(); size += 1 + good.size() / 40) {
      all.push_back(good.substr(0, size));
    }
    for (int i = 0; i < 60; ++i) {
      std::string bad = good;
      for (int k = 0; k < 3; ++k) bad[random() % bad.size()] = static_cast<char>(random());
      all.push_back(bad);
    }
    all.push_back(good + good);
  }
  for (int i = 0; i < 200; ++i) {
    std::string noise(random() % 300, '\0');
    std::generate(noise.begin(), noise.end(), [&] { return static_cast<char>(random()); });
    all.push_back(noise);
  }
  return all;
}

class Wire : public test::LocalJob {
 protected:
  void SetUp() override { RecordProperty("seed", static_cast<int>(kSeed)); }

  std::string meeting_place() const { return place.path() + "/" + job + "/policy"; }

  std::string endpoint() const {
    const auto announcement = stream::read_announcement(meeting_place());
    return announcement ? announcement->endpoint : "";
  }

  static wire::Message hello(const std::string& name, const weightcast::Run& run = {}) {
    wire::Hello hello;
    hello.policy = "policy";
    return {run, {wire::Role::kReceiver, name, 1}, hello};
  }
};

TEST_F(Wire, TheTrainerOutlivesHostilePeers) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow("good");
  ASSERT_TRUE(bring(publisher, policy, 1));
  const weightcast::Run run = publisher.status().run;
  Stranger stranger(endpoint());

  // Strangers who say that they are somebody, or somebody else.
  const wire::Member rank_0{wire::Role::kSource, "rank-0", 1};
  const wire::Member rank_9{wire::Role::kSource, "rank-9", 1};
  const wire::Member good{wire::Role::kReceiver, "good", 1};
  wire::Hello as_source;
  as_source.policy = "policy";
  as_source.world_size = 1;
  wire::Hello as_rank_9 = as_source;
  as_rank_9.rank = 9;
  wire::Hello other_policy;
  other_policy.policy = "critic";
  wire::ReceiverState applied;
  applied.sequence = 1'000'000;
  applied.phase = wire::Phase::kApplied;
  applied.serving = {run, ~std::uint64_t{0} - 1};
  wire::Sealed sealed;
  sealed.grant_ordinal = 1;
  sealed.point = 77;
  sealed.share.object = "weightcast.0.x";
  wire::SourceState state;
  state.sequence = 1'000'000;
  state.next_point = 1'000'000'000;
  const std::vector<wire::Message> lies{
      {run, rank_0, as_source},   {run, rank_9, as_rank_9},   {run, good, other_policy},
      {run, good, applied},       {run, rank_0, sealed},      {run, rank_0, state},
      {run, rank_0, wire::Bye{}}, {run, good, wire::Bye{}},   {run, rank_0, wire::FlushRequest{1, 1, 1}},
      hello("good"),
  };
  for (const wire::Message& lie : lies) stranger.send(lie);
  for (const std::string& bytes : spoiled(lies)) stranger.send(bytes);
  stranger.send_parts({"", wire::encode(lies[0])});
  stranger.send_parts({wire::encode(lies[0]), wire::encode(lies[1]), "x"});

  // One after the other has been read when this is answered.
  stranger.send(hello("late"));
  ASSERT_TRUE(stranger.hear<wire::Welcome>());
  stranger.send(wire::Message{run, {wire::Role::kReceiver, "late", 1}, wire::Bye{}});
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  EXPECT_GT(publisher.status().refused_messages, 300u);
  for (std::uint64_t step = 2; step <= 10; ++step) {
    const auto verdict = bring(publisher, policy, step);
    ASSERT_TRUE(verdict) << verdict.status().to_string();
    ASSERT_EQ(verdict->applied, std::vector<std::string>{"good"});
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease);
    ASSERT_EQ(policy.difference(lease->image(), step), "");
  }
  EXPECT_EQ(engine.status().rejoined, 0u);
}

TEST_F(Wire, AMemberThatLiesAboutItselfHarmsOnlyItself) {
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.member_timeout = 500ms;
  options.attempt_timeout = 300ms;
  Publisher publisher = open(options, policy);
  Subscriber engine = follow("good");
  ASSERT_TRUE(bring(publisher, policy, 1));
  const weightcast::Run run = publisher.status().run;
  Stranger stranger(endpoint());
  const wire::Member liar{wire::Role::kReceiver, "liar", 1};
  stranger.send(hello("liar"));
  ASSERT_TRUE(stranger.hear<wire::Welcome>());

  // It is asked to stage, says that it serves what does not exist, sends what is spoiled, and falls
  // silent.
  wire::ReceiverState state;
  state.serving = {run, 999'999};
  state.phase = wire::Phase::kFailed;
  state.failure = std::string(100'000, '\n');
  for (std::uint64_t sequence = 1; sequence <= 50; ++sequence) {
    state.sequence = sequence;
    state.attempt = sequence;
    stranger.send(wire::Message{run, liar, state});
  }
  for (const std::string& bytes : spoiled({{run, liar, state}})) stranger.send(bytes);

  ASSERT_TRUE(eventually([&] {
    const auto verdict = bring(publisher, policy, 2);
    return verdict && verdict->applied == std::vector<std::string>{"good"};
  }));
  const auto lease = engine.acquire(soon());
  ASSERT_TRUE(lease);
  EXPECT_EQ(policy.difference(lease->image(), 2), "");
}

TEST_F(Wire, AMemberThatHasSeenANewerRunStopsNoTrainer) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow("good");
  ASSERT_TRUE(bring(publisher, policy, 1));
  weightcast::Run newer = publisher.status().run;
  ++newer.started_us;
  wire::Message message = hello("lost");
  std::get<wire::Hello>(message.body).highest_run = newer;
  Stranger stranger(endpoint());
  stranger.send(message);

  const auto refused = stranger.hear<wire::Refused>();

  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason, wire::Refusal::kSuperseded);
  EXPECT_TRUE(has(refused->message, "obeyed the newer run " + to_string(newer)));
  EXPECT_TRUE(has(refused->message, "start the member again")) << refused->message;
  stranger.send({newer, message.member, wire::Bye{}});
  ASSERT_TRUE(stranger.hear<wire::Refused>());
  EXPECT_TRUE(bring(publisher, policy, 2));
}

TEST_F(Wire, AMessageThatIsTooLargeEndsItsConnectionOnly) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber engine = follow("good");
  ASSERT_TRUE(bring(publisher, policy, 1));
  {
    Stranger stranger(endpoint());
    stranger.send(std::string(wire::kMaxMessageBytes + 1, '\x08'));
    stranger.send(hello("late"));
    // The connection is made anew, and what was queued for it goes out or is lost: either way the
    // trainer is there for the next one.
  }
  Stranger next(endpoint());
  next.send(hello("next"));
  ASSERT_TRUE(next.hear<wire::Welcome>());
  next.send(wire::Message{publisher.status().run, {wire::Role::kReceiver, "next", 1}, wire::Bye{}});
  ASSERT_TRUE(eventually([&] {
    const auto verdict = bring(publisher, policy, 2);
    return verdict.is_ok();
  }));
}

TEST_F(Wire, APeerOfAnotherProtocolVersionIsToldBothNumbers) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Stranger stranger(endpoint());
  std::string bytes = wire::encode(hello("modern"));
  ASSERT_EQ(bytes[0], '\x08');  // field 1, the version
  bytes[1] = static_cast<char>(wire::kProtocolVersion + 1);
  stranger.send(bytes);

  const auto refused = stranger.hear<wire::Refused>();

  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason, wire::Refusal::kProtocol);
  EXPECT_TRUE(has(refused->message, "expected protocol version " +
                                        std::to_string(wire::kProtocolVersion) + ", got " +
                                        std::to_string(wire::kProtocolVersion + 1)))
      << refused->message;
  EXPECT_TRUE(has(refused->message, "install the same weightcast")) << refused->message;
}

// ---- an engine and a trainer that is none ---------------------------------------------------

class FalseTrainer : public Wire {
 protected:
  void SetUp() override {
    Wire::SetUp();
    auto made = stream::meeting_place(place.path(), "", job, "policy");
    ASSERT_TRUE(made) << made.status().to_string();
    auto claimed = stream::Rendezvous::claim(*made, false);
    ASSERT_TRUE(claimed) << claimed.status().to_string();
    rendezvous = std::move(*claimed);
    auto bound = stream::ControlServer::bind(rendezvous->endpoint());
    ASSERT_TRUE(bound) << bound.status().to_string();
    server = std::move(*bound);
    ASSERT_TRUE(rendezvous->announce(wire::kProtocolVersion));
    SubscriberOptions options = subscriber_options("one");
    options.member_timeout = 300ms;
    engine.emplace(follow(options));
  }

  /// The engine's next message of that kind; notes who it says it is and where to answer.
  template <class Body>
  std::optional<Body> hear() {
    std::optional<Body> found;
    eventually([&] {
      while (auto received = server->receive()) {
        const auto message = wire::decode(
            std::as_bytes(std::span(received->bytes.data(), received->bytes.size())));
        if (!message) continue;
        peer = received->peer;
        member = message->member;
        if (const auto* body = std::get_if<Body>(&message->body)) {
          found = *body;
          return true;
        }
      }
      return false;
    });
    return found;
  }

  void say(wire::Body body) {
    EXPECT_TRUE(server->send(peer, std::span<const char>(wire::encode(
                                       {rendezvous->run(), member, std::move(body)}))));
  }

  plan::Manifest manifest(const std::string& object, std::uint64_t payload_bytes) const {
    plan::ShareEntry entry;
    entry.info = {"weight", {}, DType::kF32, {static_cast<std::int64_t>(payload_bytes / 4)}, false};
    plan::Share share;
    share.object = object;
    share.generation = 1;
    share.payload_bytes = payload_bytes;
    share.entries.push_back(entry);
    return {{share}};
  }

  void TearDown() override {
    engine.reset();
    Wire::TearDown();
  }

  std::unique_ptr<stream::Rendezvous> rendezvous;
  std::unique_ptr<stream::ControlServer> server;
  std::optional<Subscriber> engine;
  std::string peer;
  wire::Member member;
};

TEST_F(FalseTrainer, CannotMakeTheEngineServeNorEndIt) {
  ASSERT_TRUE(hear<wire::Hello>());
  say(wire::Welcome{1});
  ASSERT_TRUE(hear<wire::ReceiverState>());

  // Slots that are none, that are not there, that belong to somebody else, and commits of nothing.
  std::uint64_t attempt = 0;
  wire::ReceiverOrders orders;
  for (const std::string& object :
       {std::string("../../etc/passwd"), std::string("weightcast"),
        "weightcast." + std::to_string(::geteuid()) + "." + job + ".policy.1-1.r0.1.s0"}) {
    ++attempt;
    say(wire::Prepare{attempt, attempt, manifest(object, 4096)});
    orders.sequence = attempt;
    orders.attempt = attempt;
    orders.order = wire::Order::kCommit;
    orders.published = orders.committed = attempt;
    say(orders);
    std::optional<wire::ReceiverState> state;
    do {
      state = hear<wire::ReceiverState>();
      ASSERT_TRUE(state);
      ASSERT_NE(state->phase, wire::Phase::kStaged) << object;
      ASSERT_NE(state->phase, wire::Phase::kApplied) << object;
    } while (state->phase != wire::Phase::kFailed || state->attempt != attempt);
    EXPECT_FALSE(state->failure.empty());
    ASSERT_TRUE(state->serving.is_none());
  }
  expect_refusal(engine->acquire(Clock::now()).status(), Code::kDeadline,
                 {"no version of policy policy of job " + job + " could be taken in"});

  // Spoiled bytes, bodies that only members send, and a newer attempt that says nothing.
  for (const std::string& bytes :
       spoiled({{rendezvous->run(), member, wire::Prepare{9, 9, manifest("x", 64)}},
                {rendezvous->run(), member, orders},
                {rendezvous->run(), member, wire::Bye{}}})) {
    if (!bytes.empty()) {
      [[maybe_unused]] const Status sent = server->send(peer, std::span<const char>(bytes));
    }
  }
  ASSERT_TRUE(eventually([&] { return engine->status().dropped_messages > 50; }));

  // A real one takes its place.
  server.reset();
  rendezvous.reset();
  ToyPolicy policy;
  Publisher publisher = open(policy);
  const auto verdict = bring(publisher, policy, 1);
  ASSERT_TRUE(verdict) << verdict.status().to_string();
  const auto lease = engine->acquire(soon());
  ASSERT_TRUE(lease) << lease.status().to_string();
  EXPECT_EQ(policy.difference(lease->image(), 1), "");
}

TEST_F(FalseTrainer, OfAnotherProtocolVersionIsNamedByTheEngine) {
  ASSERT_TRUE(hear<wire::Hello>());
  say(wire::Refused{wire::Refusal::kProtocol,
                    "expected protocol version 2, got 1; install the same weightcast in trainer "
                    "and engines"});

  ASSERT_TRUE(eventually([&] {
    return has(engine->acquire(Clock::now()).status().message(), "refuses this worker");
  }));
  expect_refusal(engine->acquire(Clock::now()).status(), Code::kDeadline,
                 {"expected protocol version 2, got 1", "install the same weightcast"});
}

TEST_F(FalseTrainer, ThatSaysNothingIsLeftForTheNextOne) {
  ASSERT_TRUE(hear<wire::Hello>());

  expect_refusal(engine->acquire(Clock::now() + 50ms).status(), Code::kDeadline,
                 {"no trainer", "is heard"});
  server.reset();
  rendezvous.reset();
  ToyPolicy policy;
  Publisher publisher = open(policy);
  EXPECT_TRUE(bring(publisher, policy, 1));
}

}  // namespace
}  // namespace weightcast
