// weightcast status, run as a user runs it, against real publishers and subscribers.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include <weightcast/job_status.hpp>

#include "integration/command_run.hpp"
#include "integration/tcp_job.hpp"

namespace weightcast {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using test::Ended;
using test::eventually;
using test::has;
using test::ToyPolicy;

class StatusCommand : public test::TcpJob {
 protected:
  Ended status(std::vector<std::string> more = {},
               const std::vector<std::string>& variables = {}) const {
    std::vector<std::string> line{WEIGHTCAST_COMMAND, "status"};
    line.insert(line.end(), more.begin(), more.end());
    return test::run_program(std::move(line), output_.path(), variables);
  }
  std::vector<std::string> here(std::vector<std::string> more = {}) const {
    std::vector<std::string> line{"--job", job, "--directory", place.path(), "--timeout", "20"};
    line.insert(line.end(), more.begin(), more.end());
    return line;
  }
  /// Asks by --json until `done` holds. @return the last answer
  json until(const std::vector<std::string>& line, const std::function<bool(const json&)>& done) {
    json answer;
    EXPECT_TRUE(eventually([&] {
      const Ended ended = status(line);
      EXPECT_EQ(ended.code, 0) << ended.err;
      answer = json::parse(ended.out, nullptr, false);
      return !answer.is_discarded() && done(answer);
    })) << answer.dump(2);
    return answer;
  }
  JobStatusOptions asked() const { return {.job = job, .directory = place.path()}; }

  static const json* engine(const json& answer, const std::string& name) {
    for (const auto& its : answer["engines"]) {
      if (its["name"] == name) return &its;
    }
    return nullptr;
  }

  test::PrivatePlace output_;
};

TEST_F(StatusCommand, ShowsAJobOfOneHost) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  Subscriber viewer = follow("viewer");
  SubscriberOptions flip = subscriber_options("flipper");
  flip.activation = Activation::kFlip;
  Subscriber flipper = follow(flip);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 2; }));
  ASSERT_TRUE(bring(publisher, policy, 1));
  const auto lease = flipper.acquire(test::soon());
  ASSERT_TRUE(lease);

  const json answer = until(here({"--json"}), [&](const json& its) {
    const json* one = engine(its, "flipper");
    return one != nullptr && (*one)["received_bytes"] > 0 && (*one)["leases"] == 1 &&
           (*engine(its, "viewer"))["activation"] == "view" && its["trainers"][0]["captured"] == 1;
  });

  EXPECT_EQ(answer["format"], 1);
  EXPECT_EQ(answer["job"], job);
  EXPECT_EQ(answer["policy"], "policy");
  EXPECT_EQ(answer["run"], to_string(publisher.status().run));
  EXPECT_EQ(answer["mode"], "broadcast");
  EXPECT_EQ(answer["committed"], 1);
  EXPECT_EQ(answer["min_receivers"], 1);
  EXPECT_EQ(answer["last_applied"], 1);
  EXPECT_GT(answer["last_apply_ns"], 0);
  EXPECT_TRUE(answer["round"].is_null());
  ASSERT_EQ(answer["trainers"].size(), 1u);
  const json& trainer = answer["trainers"][0];
  EXPECT_EQ(trainer["pid"], ::getpid());
  EXPECT_EQ(trainer["staging"], "host");
  EXPECT_EQ(trainer["transport"], "shm");
  EXPECT_EQ(trainer["slots"], 4);
  EXPECT_GT(trainer["last_hook_ns"], 0);
  const json& flipped = *engine(answer, "flipper");
  EXPECT_EQ(flipped["state"], "current");
  EXPECT_EQ(flipped["serving"], 1);
  EXPECT_EQ(flipped["staleness"], 0);
  EXPECT_EQ(flipped["activation_reason"], "chosen by the configuration");
  EXPECT_EQ(flipped["transport"], "shm");
  EXPECT_TRUE(has(flipped["transport_reason"], "shared memory")) << flipped["transport_reason"];
  EXPECT_GT(flipped["last_stage_ns"], 0);
  EXPECT_GT(flipped["last_apply_ns"], 0);
  EXPECT_EQ((*engine(answer, "viewer"))["received_bytes"], 0);

  const Ended table = status(here());
  EXPECT_EQ(table.code, 0) << table.err;
  for (const char* part : {"flipper", "viewer", "current", "flip by shm", "view by shm", "rank-0",
                           "waits for: the trainer's next publish point"}) {
    EXPECT_TRUE(has(table.out, part)) << "no \"" << part << "\" in:\n" << table.out;
  }
  std::istringstream lines(table.out);
  for (std::string line; std::getline(lines, line);) {
    // A word alone, as a path in a reason, may be longer.
    EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST_F(StatusCommand, WatchesInLinesWhereThereIsNoTerminal) {
  ToyPolicy policy;
  Publisher publisher = open(policy);

  const Ended lines = status(here({"--watch", "0.1", "--looks", "3"}));
  EXPECT_EQ(lines.code, 0) << lines.err;
  EXPECT_EQ(std::count(lines.out.begin(), lines.out.end(), '\n'), 3) << lines.out;
  EXPECT_FALSE(has(lines.out, "\x1b"));

  const Ended objects = status(here({"--json", "--watch", "0.1", "--looks", "2"}));
  std::istringstream each(objects.out);
  int count = 0;
  for (std::string line; std::getline(each, line); ++count) EXPECT_EQ(json::parse(line)["job"], job);
  EXPECT_EQ(count, 2);
}

TEST_F(StatusCommand, ExpectsEnginesThatServeTheNewestVersion) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  EXPECT_EQ(status(here({"--expect", "0"})).code, 0);
  const Ended none = status(here({"--expect", "1"}));
  EXPECT_EQ(none.code, 1);
  EXPECT_TRUE(has(none.err, "expected 1 engines")) << none.err;

  Subscriber one = follow("one");
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  ASSERT_TRUE(bring(publisher, policy, 1));
  EXPECT_EQ(status(here({"--expect", "1"})).code, 0);
}

TEST_F(StatusCommand, TakesTheEnvironmentAndFlagsLikeEverybody) {
  ToyPolicy policy;
  Publisher publisher = open(policy);

  EXPECT_EQ(status({}, {"WEIGHTCAST_JOB=" + job, "WEIGHTCAST_DIR=" + place.path()}).code, 0);
  EXPECT_EQ(status({"--weightcast.job=" + job, "--weightcast.directory", place.path()}).code, 0);
  // The line goes before the environment.
  EXPECT_EQ(status(here(), {"WEIGHTCAST_JOB=another"}).code, 0);
}

TEST_F(StatusCommand, WrongLinesAreTold) {
  EXPECT_EQ(status({"--what"}).code, 2);
  EXPECT_EQ(status({"--job", "a/b"}).code, 2);
  EXPECT_EQ(status({"--looks", "3"}).code, 2);
  const Ended no_keys = status({"--coordinator", "10.0.0.1:29577"});
  EXPECT_EQ(no_keys.code, 2);
  EXPECT_TRUE(has(no_keys.err, "keys")) << no_keys.err;
}

TEST_F(StatusCommand, SaysWhatRunsInsteadAndMakesNoFiles) {
  const Ended nothing = status({"--job", "none", "--directory", elsewhere.path() + "/not"});
  EXPECT_EQ(nothing.code, 1);
  EXPECT_TRUE(has(nothing.err, "nothing else runs there")) << nothing.err;
  struct stat info{};
  EXPECT_NE(::stat((elsewhere.path() + "/not").c_str(), &info), 0);

  ToyPolicy policy;
  Publisher publisher = open(policy);
  const Ended other = status({"--job", "misspelt", "--directory", place.path(), "--json"});
  EXPECT_EQ(other.code, 1);
  EXPECT_TRUE(has(other.err, "running there: job '" + job + "', policy 'policy'")) << other.err;
  EXPECT_EQ(json::parse(other.out)["error"]["code"], "not_found");
}

TEST_F(StatusCommand, ShowsARoundThatWaitsAndWhoIsEvictedThen) {
  // An engine that joins and then says nothing but that it lives: the round waits for it.
  ToyPolicy policy;
  PublisherOptions options = listening();
  options.attempt_timeout = 60s;
  options.member_timeout = 1s;
  Publisher publisher = open(options, policy);
  auto mute = stranger(port_of(publisher), keys::Role::kEngine);
  protocol::Hello hello;
  hello.policy = "policy";
  const protocol::Member me{protocol::Role::kReceiver, "mute", 5};
  ASSERT_TRUE(say(*mute, {{}, me, hello}));
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  publisher.publish(policy.lister());

  // Before the silence is too long it is in the round; then it is gone, and the version committed.
  bool was_in_round = false;
  json answer;
  ASSERT_TRUE(eventually([&] {
    const auto seen = job_status(asked(), test::soon());
    EXPECT_TRUE(seen) << seen.status().to_string();
    if (!seen) return true;
    if (seen->round && !seen->engines.empty()) {
      was_in_round = true;
      EXPECT_EQ(seen->engines[0].state, EngineState::kInRound);
      EXPECT_EQ(seen->round->number, 1u);
      EXPECT_EQ(seen->waiting_for, "mute to take in version 1");
    }
    return seen->engines.empty() && !seen->gone.empty() && seen->committed == 1;
  }));
  EXPECT_TRUE(was_in_round);
  answer = until(here({"--json"}), [](const json&) { return true; });
  EXPECT_EQ(answer["gone"][0]["name"], "mute");
  EXPECT_EQ(answer["gone"][0]["why"], "silent");
  EXPECT_EQ(answer["engines_evicted"], 1);
}

TEST_F(StatusCommand, WorksOverTcpWithEitherRolesKeysAndInP2p) {
  ToyPolicy policy;
  PublisherOptions options = listening();
  options.mode = Mode::kP2p;
  Publisher publisher = open(options, policy);
  const std::string at = "127.0.0.1:" + std::to_string(port_of(publisher));
  SubscriberOptions far = remote("far", port_of(publisher));
  far.transport = TransportChoice::kTcp;
  Subscriber engine_ = follow(far);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));
  ASSERT_TRUE(bring(publisher, policy, 1));

  for (const char* missing : {"trainer.secret", "engine.secret"}) {
    const std::string file = keys + "/" + missing;
    ASSERT_EQ(::rename(file.c_str(), (file + ".away").c_str()), 0);
    const json answer = until({"--coordinator", at, "--keys", keys, "--json", "--timeout", "20",
                               "--directory", elsewhere.path()},
                              [&](const json& its) {
                                const json* far_ = engine(its, "far");
                                return far_ != nullptr && (*far_)["transport"] == "tcp" &&
                                       its["trainers"][0]["sent_bytes"] > 0;
                              });
    EXPECT_EQ(answer["mode"], "p2p");
    EXPECT_EQ(answer["listening"], "tcp://" + at);
    EXPECT_EQ(answer["trainers"][0]["transport"], "shm and tcp");
    EXPECT_EQ((*engine(answer, "far"))["state"], "current");
    EXPECT_TRUE(has((*engine(answer, "far"))["transport_reason"], "chosen: over tcp"));
    ASSERT_EQ(::rename((file + ".away").c_str(), file.c_str()), 0);
  }
}

TEST_F(StatusCommand, TellsWrongKeysFromNobody) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  const std::string at = "127.0.0.1:" + std::to_string(port_of(publisher));
  const std::string others = of_keys.path() + "/others";
  ASSERT_TRUE(make_keys(others));

  const Ended wrong = status({"--coordinator", at, "--keys", others, "--timeout", "20"});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_TRUE(has(wrong.err, "trainer.public is not that trainer's key")) << wrong.err;

  // The trainer's own public key, but a key of ours that it does not know.
  ASSERT_EQ(::rename((keys + "/trainer.public").c_str(), (others + "/trainer.public").c_str()), 0);
  const Ended unknown = status({"--coordinator", at, "--keys", others, "--timeout", "20"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_TRUE(has(unknown.err, "refused this key")) << unknown.err;

  { const Publisher ends = std::move(publisher); }
  const Ended nobody = status({"--coordinator", at, "--keys", others, "--timeout", "20"});
  EXPECT_EQ(nobody.code, 1);
  EXPECT_TRUE(has(nobody.err, "no coordinator is reached at tcp://" + at)) << nobody.err;
}

TEST_F(StatusCommand, AFloodOfRequestsCostsTheJobNothing) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  Subscriber engine_ = follow("engine");
  auto flood = stranger(port_of(publisher), keys::Role::kEngine);
  const protocol::Member me{protocol::Role::kReceiver, "observer", 1};
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));

  std::uint64_t ordinal = 0;
  std::size_t answers = 0;
  for (std::uint64_t step_ = 1; step_ <= 20; ++step_) {
    for (int i = 0; i < 500; ++i) {
      const auto bytes = protocol::encode({{}, me, protocol::StatusRequest{++ordinal}});
      [[maybe_unused]] const Status sent = flood->send(std::span<const char>(bytes));
    }
    ASSERT_TRUE(bring(publisher, policy, step_));
    while (flood->receive()) ++answers;
  }
  // Nobody became a member by asking, and most were not answered.
  EXPECT_EQ(publisher.status().receivers.size(), 1u);
  EXPECT_LT(answers, ordinal / 2);
  EXPECT_TRUE(eventually([&] { return job_status(asked(), test::soon()).is_ok(); }));
}

TEST_F(StatusCommand, ABadRequestIsDroppedAndCounted) {
  ToyPolicy policy;
  Publisher publisher = open(listening(), policy);
  auto peer = stranger(port_of(publisher), keys::Role::kEngine);
  const protocol::Member me{protocol::Role::kReceiver, "observer", 1};
  std::string bytes = protocol::encode({{}, me, protocol::StatusRequest{1}});
  bytes += std::string("\xfa\x3f\x80\x80\x40", 5) + std::string(1 << 20, 'x');
  const std::uint64_t before = publisher.status().refused_messages;
  ASSERT_TRUE(eventually([&] { return peer->send(std::span<const char>(bytes)).is_ok(); }));
  EXPECT_TRUE(eventually([&] { return publisher.status().refused_messages > before; }));

  // A trainer's words by an engine's key.
  const protocol::Member liar{protocol::Role::kSource, "rank-0", 1};
  ASSERT_TRUE(say(*peer, {{}, liar, protocol::StatusRequest{2}}));
  const auto heard = hear(*peer);
  ASSERT_TRUE(heard);
  ASSERT_TRUE(std::holds_alternative<protocol::Refused>(heard->body));
  EXPECT_EQ(std::get<protocol::Refused>(heard->body).reason, protocol::Refusal::kRole);
}

}  // namespace
}  // namespace weightcast
