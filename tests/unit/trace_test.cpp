// The trace's file: what stands in it, who may read it, and what is lost of it where there is no room.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/host.hpp"
#include "base/trace.hpp"
#include "base/trace_ring.hpp"
#include "base/trace_use.hpp"
#include "unit/trace_fixture.hpp"

namespace weightcast::base {
namespace {

using nlohmann::json;
using test::at;
using test::text_of;
using test::TraceTest;

TEST_F(TraceTest, ASpanHasItsTimesTrackAndArguments) {
  open();
  trace_span("wire", "tcp", at(1'234'567'890'123), at(1'234'567'891'130),
             {.version = 7, .bucket = 3, .bytes = 4096, .rank = 0});
  trace_span("hook", "publish", at(5), at(5));
  const json trace = read();

  const auto found = spans(trace);
  ASSERT_EQ(found.size(), 2u);
  const json& span = found[0];
  EXPECT_EQ(span.at("name"), "tcp");
  EXPECT_EQ(span.at("cat"), "wire");
  EXPECT_EQ(span.at("pid"), ::getpid());
  EXPECT_DOUBLE_EQ(span.at("ts").get<double>(), 1'234'567'890.123);
  EXPECT_DOUBLE_EQ(span.at("dur").get<double>(), 1.007);
  EXPECT_EQ(span.at("args"), json({{"version", 7}, {"bucket", 3}, {"bytes", 4096}, {"rank", 0}}));
  EXPECT_EQ(found[1].at("args"), json::object()) << "what is not known is left out";
  EXPECT_DOUBLE_EQ(found[1].at("ts").get<double>(), 0.005);
  EXPECT_EQ(last(trace), json({{"events", 2}, {"dropped", 0}}));
}

TEST_F(TraceTest, TellsTheProcessItsTracksAndItsClock) {
  open();
  trace_span("wire", "a", at(10), at(20));
  trace_span("place", "b", at(10), at(20));
  const json trace = read();

  std::map<std::string, json> metadata;
  std::map<int, std::string> rows;
  for (const json& event : trace) {
    if (event.at("ph") != "M") continue;
    if (event.at("name") == "thread_name") {
      rows[event.at("tid").get<int>()] = event.at("args").at("name").get<std::string>();
    } else {
      metadata[event.at("name").get<std::string>()] = event.at("args");
    }
  }
  EXPECT_EQ(metadata.at("process_name"), json({{"name", "the test"}}));
  EXPECT_EQ(metadata.at("weightcast"), json({{"clock", host_identity()}}));
  for (const json& span : spans(trace)) {
    EXPECT_EQ(rows.at(span.at("tid").get<int>()), span.at("cat").get<std::string>());
  }
}

TEST_F(TraceTest, SpansOfATrackThatOverlapStandInRowsOfTheirOwn) {
  open();
  trace_span("place", "first", at(0), at(10));
  trace_span("place", "overlaps", at(5), at(15));
  trace_span("place", "after the first", at(10), at(20));
  const auto found = spans(read());

  ASSERT_EQ(found.size(), 3u);
  EXPECT_NE(found[0].at("tid"), found[1].at("tid"));
  EXPECT_EQ(found[0].at("tid"), found[2].at("tid"));
}

TEST_F(TraceTest, AnyNameMakesAValidFile) {
  ASSERT_TRUE(open_trace(path(), "a\"b\\c\nd\xff\x01"));
  trace_span("tr\"ack", std::string(100, 'n'), at(1), at(2));
  const json trace = read();

  EXPECT_EQ(trace.at(0).at("args").at("name"), "a\"b\\c\nd\u00ff\u0001");
  const auto found = spans(trace);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].at("cat"), "tr\"ack");
  EXPECT_EQ(found[0].at("name"), std::string(23, 'n')) << "cut, not lost";
}

TEST_F(TraceTest, AScopeSpansItsLife) {
  open();
  const auto before = Clock::now();
  {
    TraceScope scope("hook", "publish", {.version = 1});
    scope.args().bytes = 9;
    TraceScope("hook", "not this one").cancel();
  }
  const auto after = Clock::now();
  const auto found = spans(read());

  ASSERT_EQ(found.size(), 1u);
  const double begin = found[0].at("ts").get<double>();
  const double end = begin + found[0].at("dur").get<double>();
  constexpr double kRounding = 0.01;
  EXPECT_GE(begin, before.time_since_epoch().count() / 1e3 - kRounding);
  EXPECT_LE(end, after.time_since_epoch().count() / 1e3 + kRounding);
  EXPECT_EQ(found[0].at("args"), json({{"version", 1}, {"bytes", 9}}));
}

TEST_F(TraceTest, EverySpanOfManyThreadsIsWrittenOrCounted) {
  constexpr int kThreads = 4;
  constexpr int kEach = 5000;
  open({.waiting_events = 64});
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([t] {
      const std::string track = "track " + std::to_string(t);
      for (int i = 0; i < kEach; ++i) trace_span(track, "work", at(i), at(i + 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const json trace = read();

  const auto found = spans(trace);
  EXPECT_EQ(last(trace).at("events"), found.size());
  EXPECT_EQ(found.size() + last(trace).at("dropped").get<std::size_t>(),
            static_cast<std::size_t>(kThreads * kEach));
  std::map<std::string, double> newest;
  for (const json& span : found) {
    const std::string track = span.at("cat").get<std::string>();
    const double begin = span.at("ts").get<double>();
    EXPECT_TRUE(!newest.contains(track) || begin > newest[track]) << "in the order of their thread";
    newest[track] = begin;
  }
}

TEST_F(TraceTest, OpeningAndClosingDisturbsNobodyWhoIsTraced) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      while (!stop) const TraceScope scope("track", "work", {.version = 1});
    });
  }
  for (int i = 0; i < 20; ++i) {
    const std::string file = path("trace-" + std::to_string(i) + ".json");
    EXPECT_TRUE(open_trace(file, "the test", {.waiting_events = 256}));
    if (i % 2 == 0) close_trace();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  close_trace();
  for (int i = 0; i < 20; ++i) {
    const json trace = json::parse(text_of(path("trace-" + std::to_string(i) + ".json")));
    EXPECT_EQ(trace.back().at("name"), "trace_end");
  }
}

TEST_F(TraceTest, AFileDoesNotGrowBeyondItsLimit) {
  constexpr std::uint64_t kLimit = 8192;
  open({.waiting_events = 1024, .file_bytes = kLimit});
  for (int i = 0; i < 1000; ++i) trace_span("wire", "tcp", at(i), at(i + 1), {.version = 1});
  const json trace = read();

  EXPECT_LE(text_of(path()).size(), kLimit);
  EXPECT_GT(spans(trace).size(), 10u);
  EXPECT_EQ(last(trace).at("dropped").get<std::size_t>(), 1000 - spans(trace).size());
}

TEST(TraceRingTest, WhatDoesNotFitIsRefusedAndWhatWasPutComesInOrder) {
  TraceRing<int> ring(4);
  int value = 0;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(ring.put(10 * round + i));
    EXPECT_FALSE(ring.put(99));
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(ring.take(value));
      EXPECT_EQ(value, 10 * round + i);
    }
    EXPECT_FALSE(ring.take(value));
  }
}

// ---- the file ---------------------------------------------------------------------------------

TEST_F(TraceTest, ItsFileIsForItsOwnerAlone) {
  open();
  struct stat info {};
  ASSERT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(TraceTest, AFileThatExistsIsLeftAlone) {
  std::ofstream(path()) << "precious";
  const std::string pid = std::to_string(::getpid());
  open();
  EXPECT_EQ(trace_file(), path("trace." + pid + ".json"));
  open();
  EXPECT_EQ(trace_file(), path("trace." + pid + ".2.json"));
  EXPECT_EQ(text_of(path()), "precious");
}

TEST_F(TraceTest, ALinkIsNotFollowed) {
  const std::string elsewhere = path("elsewhere");
  ASSERT_EQ(::symlink(elsewhere.c_str(), path().c_str()), 0);
  open();
  EXPECT_EQ(trace_file(), path("trace." + std::to_string(::getpid()) + ".json"));
  EXPECT_NE(::access(elsewhere.c_str(), F_OK), 0);
}

TEST_F(TraceTest, AFileThatCannotBeMadeIsNamedWithWhatToDo) {
  struct Case {
    std::string file;
    Code code;
    std::string word;
  };
  for (const Case& wrong : {Case{"", Code::kInvalid, "name a file"},
                            Case{path("there/"), Code::kInvalid, "there/"},
                            Case{place.path(), Code::kInvalid, "it is a directory"},
                            Case{path("no/such.json"), Code::kNotFound, "make the directory"},
                            Case{"/sys/trace.json", Code::kDenied, "that you may write to"}}) {
    const Status status = open_trace(wrong.file, "the test");
    EXPECT_EQ(status.code(), wrong.code) << status.to_string();
    EXPECT_NE(status.message().find(wrong.word), std::string::npos) << status.message();
    EXPECT_FALSE(tracing());
  }
  EXPECT_EQ(open_trace(path(), "the test", {.waiting_events = 100}).code(), Code::kInvalid);
}

// ---- members of one process -----------------------------------------------------------------

TEST_F(TraceTest, NamesHaveThePidAndTheMember) {
  const std::string pid = std::to_string(::getpid());
  EXPECT_EQ(trace_name("/t/%n-%p.json", "rank-0"), "/t/rank-0-" + pid + ".json");
  EXPECT_EQ(trace_name("100%%.json", "rank-0"), "100%.json");
  for (const char* good : {"", "a", "%p", "%n%p%%"}) EXPECT_TRUE(is_trace_name(good)) << good;
  for (const char* bad : {"%", "a%", "%x", "%%%", "%P"}) EXPECT_FALSE(is_trace_name(bad)) << bad;
}

TEST_F(TraceTest, MembersOfAProcessShareItsFileUntilTheLastOneGoes) {
  auto first = TraceUse::open(path("%n.json"), "rank-0", "trainer rank 0");
  ASSERT_TRUE(first) << first.status().to_string();
  EXPECT_EQ(trace_file(), path("rank-0.json"));
  {
    auto second = TraceUse::open(path("%n.json"), "engine", "engine");
    ASSERT_TRUE(second);
    EXPECT_EQ(trace_file(), path("rank-0.json")) << "one file a process";
    const auto none = TraceUse::open("", "silent", "silent");
    EXPECT_TRUE(none);
  }
  EXPECT_TRUE(tracing());
  { const TraceUse moved = std::move(*first); }
  EXPECT_FALSE(tracing());
  EXPECT_NE(::access(path("engine.json").c_str(), F_OK), 0);
}

TEST_F(TraceTest, AMembersTraceThatCannotBeOpenedNamesTheOption) {
  const auto use = TraceUse::open(path("no/%n.json"), "rank-0", "trainer rank 0");
  ASSERT_FALSE(use);
  EXPECT_EQ(use.status().code(), Code::kNotFound);
  EXPECT_NE(use.status().message().find("option trace = "), std::string::npos);
  EXPECT_NE(use.status().message().find("no/rank-0.json"), std::string::npos);
}

}  // namespace
}  // namespace weightcast::base
