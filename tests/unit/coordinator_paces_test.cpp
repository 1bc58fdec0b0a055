// Mode p2p, receivers whose versions come in place, and how long bytes that flow are waited for.
#include <gtest/gtest.h>

#include <map>

#include "machine_messages.hpp"

namespace weightcast::protocol {
namespace {

using namespace test;

constexpr auto kRelay = "tcp://10.0.0.7:4000";

/// One rank; engines come as a test wants them.
class Paces : public testing::Test {
 protected:
  Paces() : Paces(p2p()) {}
  explicit Paces(CoordinatorConfig config) : hall_(std::move(config)) {
    hall_.join_source(0, 1);
    hall_.state(0, hall_.ready(1));
  }
  static CoordinatorConfig p2p() {
    CoordinatorConfig config;
    config.p2p = true;
    return config;
  }

  enum Kind { kLocal, kNetwork, kInPlace };
  void join(const std::string& name, Kind kind) {
    Hello hello;
    hello.policy = "actor";
    hello.over_network = kind != kLocal;
    hello.in_place = kind == kInPlace;
    if (kind == kNetwork) hello.relay_endpoint = kRelay;
    const Peer peer = 100 + peers_.size();
    peers_[name] = peer;
    hall_.say(peer, engine_member(name), hello, kNoRun);
    hall_.state(name, peer, ReceiverState{});
  }
  void publish(std::uint64_t point) {
    hall_.state(0, hall_.ready(point));
    ASSERT_TRUE(hall_.last<SourceOrders>(1)->grant_open);
    hall_.publish(point);
    ASSERT_EQ(hall_.coordinator().published(), point);
  }
  std::optional<Prepare> prepared(const std::string& name) {
    return hall_.last<Prepare>(peers_.at(name));
  }
  void say(const std::string& name, Phase phase, std::uint64_t serving, bool dirty = false,
           std::uint64_t progress = 0) {
    ReceiverState state;
    state.attempt = prepared(name)->attempt;
    state.phase = phase;
    state.dirty = dirty;
    state.progress = progress;
    if (serving != 0) state.serving = {kRun, serving};
    hall_.state(name, peers_.at(name), state);
  }
  /// Takes in what it was last asked to.
  void apply(const std::string& name) {
    const std::uint64_t number = prepared(name)->number;
    say(name, Phase::kStaged, 0);
    say(name, Phase::kApplied, number);
  }
  Order order(const std::string& name) {
    return hall_.last<ReceiverOrders>(peers_.at(name))->order;
  }
  std::vector<std::uint64_t> kept() { return hall_.last<SourceOrders>(1)->keep; }

  Hall hall_;
  std::map<std::string, Peer> peers_;
};

TEST_F(Paces, WhatIsSealedIsCommittedAndWaitsForNobody) {
  join("a", kLocal);
  publish(1);

  EXPECT_EQ(hall_.coordinator().committed(), 1u);
  EXPECT_FALSE(hall_.coordinator().round_open());
  publish(2);
  EXPECT_EQ(hall_.coordinator().committed(), 2u);
}

TEST_F(Paces, EachIsLetSwitchAloneAndThenGetsTheNewest) {
  join("a", kLocal);
  join("b", kLocal);
  publish(1);
  publish(2);
  ASSERT_EQ(prepared("a")->number, 1u);

  say("a", Phase::kStaged, 0);
  EXPECT_EQ(order("a"), Order::kCommit);
  EXPECT_EQ(order("b"), Order::kHold);
  say("a", Phase::kApplied, 1);

  EXPECT_EQ(prepared("a")->number, 2u);
  EXPECT_EQ(prepared("b")->number, 1u);
  EXPECT_EQ(kept(), (std::vector<std::uint64_t>{1, 2}));
}

TEST_F(Paces, AHolderFeedsAtMostFanOutAndEnginesServeTheOthers) {
  for (const char* name : {"a", "b", "c", "d", "e"}) join(name, kNetwork);
  publish(1);
  EXPECT_TRUE(prepared("a"));
  EXPECT_TRUE(prepared("b"));
  EXPECT_FALSE(prepared("c")) << "the source feeds two already";

  apply("a");

  for (const char* name : {"c", "d"}) {
    ASSERT_TRUE(prepared(name)) << name;
    EXPECT_EQ(prepared(name)->relay_name, "a");
    EXPECT_EQ(prepared(name)->relay, kRelay);
  }
  EXPECT_FALSE(prepared("e")) << "the engine feeds two, and spares the source";
  apply("c");
  ASSERT_TRUE(prepared("e"));
  EXPECT_FALSE(prepared("e")->relay_name.empty());
  EXPECT_EQ(hall_.coordinator().counters().relayed, 3u);
}

TEST_F(Paces, WhatAnEngineServesNeedNotBeKept) {
  for (const char* name : {"a", "b"}) join(name, kNetwork);
  publish(1);
  apply("a");
  apply("b");
  join("c", kNetwork);
  ASSERT_EQ(prepared("c")->relay_name.empty(), false);

  publish(2);

  const auto keep = kept();
  EXPECT_EQ(std::count(keep.begin(), keep.end(), 1u), 0);
}

TEST_F(Paces, WhomAnEngineFailedTheSourceFeeds) {
  join("a", kNetwork);
  publish(1);
  apply("a");
  join("b", kNetwork);
  ASSERT_EQ(prepared("b")->relay_name, "a");

  say("b", Phase::kFailed, 0);
  hall_.pass(300ms);

  EXPECT_TRUE(prepared("b")->relay_name.empty());
}

TEST_F(Paces, AnEngineThatGoesIsReplacedAtOnce) {
  join("a", kNetwork);
  publish(1);
  apply("a");
  join("b", kNetwork);
  const std::uint64_t before = prepared("b")->attempt;

  hall_.say(peers_.at("a"), engine_member("a"), Bye{});

  EXPECT_GT(prepared("b")->attempt, before);
  EXPECT_TRUE(prepared("b")->relay_name.empty());
}

TEST_F(Paces, SourcesHaveRoomForTheNextVersionHoweverManyAreBehind) {
  // Four slots: one is written, one holds the newest; two may be read that are older.
  for (const char* name : {"a", "b", "c"}) join(name, kLocal);
  publish(1);
  say("b", Phase::kFailed, 0);
  say("c", Phase::kFailed, 0);
  publish(2);
  hall_.pass(60ms);
  say("c", Phase::kFailed, 0);
  publish(3);
  hall_.pass(1500ms);

  EXPECT_LE(kept().size(), 3u);
}

TEST_F(Paces, AFlushWaitsForThoseWhoWereThereAndNamesTheLost) {
  join("a", kLocal);
  join("b", kLocal);
  publish(1);
  apply("a");
  hall_.say(1, rank_member(0), FlushRequest{1, 1, 1});
  EXPECT_FALSE(hall_.last<Verdict>(1));
  join("late", kLocal);

  hall_.fall_silent(peers_.at("b"));
  hall_.pass(2500ms);

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->number, 1u);
  EXPECT_EQ(verdict->applied, std::vector<std::string>{"a"});
  EXPECT_EQ(verdict->lost, std::vector<std::string>{"b"});
}

TEST_F(Paces, AFlushCountsWhoLeftWithIt) {
  join("a", kLocal);
  join("b", kLocal);
  publish(1);
  apply("a");
  apply("b");
  hall_.say(peers_.at("b"), engine_member("b"), Bye{});

  hall_.say(1, rank_member(0), FlushRequest{1, 1, 1});

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->applied, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(verdict->lost.empty());
}

TEST_F(Paces, AFlushOfAVoidPointIsToldSo) {
  join("a", kLocal);
  hall_.say(1, rank_member(0), FlushRequest{1, 1, 77});

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->number, 0u);
}

TEST_F(Paces, BytesThatFlowAreWaitedForButNotForEver) {
  join("a", kNetwork);
  publish(1);
  const auto& counters = hall_.coordinator().counters();
  const std::uint64_t attempt = prepared("a")->attempt;
  // attempt_timeout is 10 s: with progress it goes on beyond, without any it ends.
  for (std::uint64_t i = 1; i <= 4; ++i) {
    say("a", Phase::kStaging, 0, false, i * 1000);
    hall_.pass(5s);
  }
  EXPECT_EQ(prepared("a")->attempt, attempt);

  hall_.pass(11s);
  EXPECT_GT(prepared("a")->attempt, attempt);
  EXPECT_EQ(counters.receivers_evicted, 0u);

  const std::uint64_t second = prepared("a")->attempt;
  for (std::uint64_t i = 1; i <= 20 && prepared("a")->attempt == second; ++i) {
    say("a", Phase::kStaging, 0, false, i * 1000);
    hall_.pass(5s);
  }
  EXPECT_GT(prepared("a")->attempt, second) << "six times attempt_timeout is the end";
}

class InPlace : public Paces {
 protected:
  InPlace() : Paces(one_dirty()) {}
  static CoordinatorConfig one_dirty() {
    CoordinatorConfig config;
    config.max_dirty = 1;
    return config;
  }
};

TEST_F(InPlace, GoOneAfterTheOtherAndTheirVersionIsKept) {
  join("a", kInPlace);
  join("b", kInPlace);
  publish(1);
  say("a", Phase::kStaged, 0);
  say("b", Phase::kStaged, 0);

  EXPECT_EQ(hall_.coordinator().committed(), 1u);
  EXPECT_EQ(order("a"), Order::kCommit);
  EXPECT_EQ(order("b"), Order::kHold);
  EXPECT_EQ(kept(), std::vector<std::uint64_t>{1});

  say("a", Phase::kApplied, 1);
  EXPECT_EQ(order("b"), Order::kCommit);
  say("b", Phase::kApplied, 1);
  EXPECT_FALSE(hall_.coordinator().round_open());
}

TEST_F(InPlace, OneThatIsBrokenGoesFirstAndOneThatStaysSoHoldsNobodyUp) {
  join("a", kInPlace);
  join("b", kInPlace);
  publish(1);
  say("a", Phase::kStaged, 0);
  say("b", Phase::kStaged, 0);
  ASSERT_EQ(order("a"), Order::kCommit);

  say("a", Phase::kFailed, 0, true);
  EXPECT_EQ(order("b"), Order::kHold) << "a is without a policy still";

  // It tries again alone, and is let go at once: it has nothing to lose.
  ASSERT_TRUE(prepared("a"));
  say("a", Phase::kStaged, 0, true);
  EXPECT_EQ(order("a"), Order::kCommit);
  say("a", Phase::kFailed, 0, true);
  hall_.pass(150ms);
  say("a", Phase::kStaged, 0, true);
  say("a", Phase::kFailed, 0, true);

  EXPECT_EQ(order("b"), Order::kCommit) << "after two failures nobody waits for it";
}

TEST_F(InPlace, OneWhoseBytesFlowIsNotCalledAwayToTheNextRound) {
  publish(1);
  join("late", kInPlace);
  say("late", Phase::kStaged, 0);
  ASSERT_EQ(order("late"), Order::kCommit);
  const std::uint64_t attempt = prepared("late")->attempt;

  publish(2);

  EXPECT_EQ(hall_.coordinator().committed(), 2u);
  EXPECT_EQ(prepared("late")->attempt, attempt);
  say("late", Phase::kApplied, 1);
  EXPECT_EQ(prepared("late")->number, 2u);
}

TEST_F(InPlace, HalfOfThemMayGoAtOnceWhereNothingElseIsSaid) {
  Hall hall;
  hall.join_source(0, 1);
  for (Peer peer = 100; peer < 104; ++peer) {
    Hello hello;
    hello.policy = "actor";
    hello.in_place = true;
    hall.say(peer, engine_member("e" + std::to_string(peer)), hello, kNoRun);
  }
  hall.state(0, hall.ready(1));
  hall.publish(1);
  for (Peer peer = 100; peer < 104; ++peer) {
    ReceiverState state;
    state.attempt = hall.last<Prepare>(peer)->attempt;
    state.phase = Phase::kStaged;
    hall.state("e" + std::to_string(peer), peer, state);
  }

  int let_go = 0;
  for (Peer peer = 100; peer < 104; ++peer) {
    let_go += hall.last<ReceiverOrders>(peer)->order == Order::kCommit ? 1 : 0;
  }
  EXPECT_EQ(let_go, 2);
}

}  // namespace
}  // namespace weightcast::protocol
