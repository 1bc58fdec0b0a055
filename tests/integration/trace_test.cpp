// A trainer and an engine, processes of their own, that both trace: their files can be read, lie on
// one clock, and tell the way of each version in its order.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "integration/local_job.hpp"
#include "support/child_process.hpp"

namespace weightcast {
namespace {

using nlohmann::json;
using test::ChildProcess;
using test::Talk;

constexpr std::uint64_t kVersions = 3;

struct Span {
  std::string track;
  double begin = 0;  ///< us
  double end = 0;
  std::int64_t bytes = 0;
};

/// A process's file.
struct Trace {
  std::string process;
  std::string clock;
  std::uint64_t dropped = 0;
  std::map<std::uint64_t, std::vector<Span>> spans;  ///< by version

  std::vector<Span> of(std::uint64_t version, const std::string& track) const {
    std::vector<Span> found;
    const auto its = spans.find(version);
    if (its == spans.end()) return found;
    std::copy_if(its->second.begin(), its->second.end(), std::back_inserter(found),
                 [&](const Span& span) { return span.track == track; });
    return found;
  }
};

Trace read_trace(const std::string& path) {
  std::ifstream file(path);
  Trace trace;
  for (const json& event : json::parse(file)) {
    const json& args = event.at("args");
    if (event.at("name") == "process_name") trace.process = args.at("name").get<std::string>();
    if (event.at("name") == "weightcast") trace.clock = args.at("clock").get<std::string>();
    if (event.at("name") == "trace_end") trace.dropped = args.at("dropped").get<std::uint64_t>();
    if (event.at("ph") != "X") continue;
    Span span{event.at("cat").get<std::string>(), event.at("ts").get<double>(), 0,
              args.value("bytes", std::int64_t{0})};
    span.end = span.begin + event.at("dur").get<double>();
    EXPECT_LE(span.begin, span.end);
    trace.spans[args.value("version", std::uint64_t{0})].push_back(span);
  }
  return trace;
}

struct Way {
  TransportChoice transport;
  Activation activation;
  const char* name;
};
void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }
std::string name_of(const testing::TestParamInfo<Way>& info) { return info.param.name; }

class TracedJob : public test::LocalJob, public testing::WithParamInterface<Way> {
 protected:
  /// Brings the versions; the engine names those that it serves in between, so that none is passed
  /// over.
  int train(const Talk& talk) const {
    PublisherOptions options = publisher_options();
    options.transport = GetParam().transport;
    options.inline_bytes = 1024;
    options.trace = place.path() + "/%n.json";
    test::ToyPolicy policy(8);
    Publisher publisher = open(options, policy);
    talk.say("open");
    for (std::uint64_t step = 1; step <= kVersions; ++step) {
      if (talk.hear() != "next") return 1;
      const auto verdict = bring(publisher, policy, step);
      talk.say(verdict ? std::to_string(verdict->version.number) : verdict.status().to_string());
    }
    return talk.hear() == "end" ? 0 : 1;
  }
};

TEST_P(TracedJob, TellsTheWayOfEachVersionOnOneClock) {
  std::vector<std::uint64_t> versions;
  {
    ChildProcess trainer([&](const Talk& talk) { return train(talk); });
    ASSERT_EQ(trainer.hear(), "open");
    SubscriberOptions options = subscriber_options("engine-7");
    options.transport = GetParam().transport;
    options.activation = GetParam().activation;
    options.trace = place.path() + "/%n.json";
    Subscriber engine = follow(options);
    ASSERT_TRUE(test::eventually([&] { return engine.status().attached; }));
    for (std::uint64_t i = 0; i < kVersions; ++i) {
      trainer.say("next");
      const std::string version = trainer.hear();
      ASSERT_EQ(version.find_first_not_of("0123456789"), std::string::npos) << version;
      versions.push_back(std::stoull(version));
    }
    trainer.say("end");
    EXPECT_EQ(trainer.wait(), 0);
  }

  const Trace trainer = read_trace(place.path() + "/rank-0.json");
  const Trace engine = read_trace(place.path() + "/engine-7.json");
  EXPECT_EQ(trainer.process, "trainer rank 0");
  EXPECT_EQ(engine.process, "engine engine-7");
  EXPECT_EQ(trainer.clock, engine.clock);
  EXPECT_EQ(trainer.dropped + engine.dropped, 0u);
  for (const std::uint64_t version : versions) {
    SCOPED_TRACE("version " + std::to_string(version));
    const auto hook = trainer.of(version, "hook");
    const auto capture = trainer.of(version, "capture");
    const auto seal = trainer.of(version, "seal");
    const auto publish = trainer.of(version, "publish");
    const auto stage = engine.of(version, "stage");
    const auto placed = engine.of(version, "place");
    const auto turn = engine.of(version, "switch");
    ASSERT_EQ(hook.size(), 1u);
    ASSERT_FALSE(capture.empty());
    ASSERT_EQ(seal.size(), 1u);
    ASSERT_EQ(publish.size(), 1u);
    ASSERT_EQ(stage.size(), 1u);
    ASSERT_FALSE(placed.empty());
    ASSERT_EQ(turn.size(), 1u);
    for (const Span& copy : capture) {
      EXPECT_LE(hook[0].begin, copy.begin);
      EXPECT_LE(copy.end, seal[0].end);
    }
    EXPECT_LE(seal[0].begin, stage[0].begin);
    std::int64_t bytes = 0;
    const bool in_place = GetParam().activation == Activation::kSerial;
    for (const Span& bucket : placed) {
      bytes += bucket.bytes;
      EXPECT_LE(in_place ? turn[0].begin : stage[0].begin, bucket.begin);
      EXPECT_LE(bucket.end, in_place ? turn[0].end : stage[0].end);
    }
    EXPECT_GT(bytes, 100'000);
    EXPECT_EQ(engine.of(version, "wire").empty(), GetParam().transport != TransportChoice::kTcp);
    EXPECT_LE(stage[0].end, turn[0].begin);
    EXPECT_LE(hook[0].begin, publish[0].begin);
    EXPECT_LT(hook[0].begin, turn[0].end);
    if (in_place && version != versions.front()) {
      const auto pause = engine.of(version, "pause");
      ASSERT_EQ(pause.size(), 1u) << "leases wait while bytes change in place";
      EXPECT_LE(pause[0].begin, placed.front().begin);
      EXPECT_LE(placed.back().end, pause[0].end);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ways, TracedJob,
    testing::Values(Way{TransportChoice::kShm, Activation::kFlip, "ShmFlip"},
                    Way{TransportChoice::kShm, Activation::kSerial, "ShmSerial"},
                    Way{TransportChoice::kTcp, Activation::kFlip, "TcpFlip"}),
    name_of);

class TraceOption : public test::LocalJob {};

TEST_F(TraceOption, AFileThatCannotBeMadeIsAnErrorAtTheStart) {
  test::ToyPolicy policy;
  PublisherOptions trainer = publisher_options();
  trainer.trace = place.path() + "/no/%n.json";
  expect_refusal(Publisher::open(trainer, policy.lister()).status(), Code::kNotFound,
                 {"option trace = ", "no/rank-0.json", "make the directory"});
  SubscriberOptions engine = subscriber_options("engine-7");
  engine.trace = place.path() + "/no/%n.json";
  expect_refusal(Subscriber::open(engine).status(), Code::kNotFound,
                 {"option trace = ", "no/engine-7.json"});
  engine.trace = "%x";
  expect_refusal(Subscriber::open(engine).status(), Code::kInvalid, {"option trace", "%p", "%n"});
}

}  // namespace
}  // namespace weightcast
