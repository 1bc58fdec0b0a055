// Rounds, catch-ups and verdicts.
#include <gtest/gtest.h>

#include "machine_messages.hpp"

namespace weightcast::protocol {
namespace {

using namespace test;

/// One rank and two engines, all ready.
class Rounds : public testing::Test {
 protected:
  static constexpr Peer kA = 100;
  static constexpr Peer kB = 101;

  Rounds() : Rounds(CoordinatorConfig{}) {}
  explicit Rounds(CoordinatorConfig config) : hall_(std::move(config)) {
    hall_.join_source(0, 1);
    hall_.join_receiver("a", kA);
    hall_.join_receiver("b", kB);
    hall_.state(0, hall_.ready(1));
  }

  /// The rank seals `point` as soon as it is granted.
  void publish(std::uint64_t point) {
    hall_.state(0, hall_.ready(point));
    ASSERT_TRUE(hall_.last<SourceOrders>(1)->grant_open);
    hall_.publish(point);
    ASSERT_EQ(hall_.coordinator().published(), point);
  }
  std::uint64_t attempt(Peer peer) const { return hall_.last<Prepare>(peer)->attempt; }
  void say(const std::string& name, Peer peer, Phase phase, std::uint64_t serving = 0,
           bool lagging = false) {
    ReceiverState state;
    state.attempt = attempt(peer);
    state.phase = phase;
    state.lagging = lagging;
    if (serving != 0) state.serving = {kRun, serving};
    hall_.state(name, peer, state);
  }
  Order order(Peer peer) const { return hall_.last<ReceiverOrders>(peer)->order; }

  Hall hall_;
};

TEST_F(Rounds, CommitsWhenEveryReceiverOfTheRoundIsStaged) {
  publish(1);
  ASSERT_TRUE(hall_.last<Prepare>(kA));
  ASSERT_TRUE(hall_.last<Prepare>(kB));

  say("a", kA, Phase::kStaged);
  EXPECT_EQ(hall_.coordinator().committed(), 0u);
  EXPECT_EQ(order(kA), Order::kHold);
  say("b", kB, Phase::kStaged);

  EXPECT_EQ(hall_.coordinator().committed(), 1u);
  EXPECT_EQ(order(kA), Order::kCommit);
  EXPECT_EQ(order(kB), Order::kCommit);
}

TEST_F(Rounds, NoGrantWhileARoundIsOpen) {
  publish(1);
  hall_.state(0, hall_.ready(2));
  EXPECT_FALSE(hall_.last<SourceOrders>(1)->grant_open);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  say("a", kA, Phase::kApplied, 1);
  EXPECT_FALSE(hall_.last<SourceOrders>(1)->grant_open);

  say("b", kB, Phase::kApplied, 1);

  EXPECT_FALSE(hall_.coordinator().round_open());
  EXPECT_TRUE(hall_.last<SourceOrders>(1)->grant_open);
}

TEST_F(Rounds, ALostPrepareIsSentAgainAndNoMore) {
  publish(1);
  ASSERT_EQ(hall_.count<Prepare>(kA), 1u);

  hall_.pass(250ms);
  EXPECT_GE(hall_.count<Prepare>(kA), 2u);

  say("a", kA, Phase::kStaging);
  hall_.forget();
  hall_.pass(500ms);
  EXPECT_EQ(hall_.count<Prepare>(kA), 0u);
  EXPECT_GE(hall_.count<Prepare>(kB), 2u);
}

TEST_F(Rounds, APrepareIsSentAgainAlthoughOtherThingsChange) {
  publish(1);
  say("a", kA, Phase::kStaging);
  hall_.forget();

  // Something changes every 20 ms, and with it everybody's orders are sent.
  for (std::uint64_t i = 0; i < 20; ++i) {
    hall_.join_receiver("guest-" + std::to_string(i), 200 + i);
    hall_.pass(20ms);
  }

  EXPECT_GE(hall_.count<Prepare>(kB), 2u);
}

TEST_F(Rounds, OneNackIsTriedAgainTwoDemoteAndVetoNothing) {
  publish(1);
  say("a", kA, Phase::kStaged);
  const std::uint64_t first = attempt(kB);

  say("b", kB, Phase::kFailed);
  EXPECT_GT(attempt(kB), first) << "a second try in the round";
  EXPECT_EQ(hall_.coordinator().committed(), 0u);
  say("b", kB, Phase::kFailed);

  EXPECT_EQ(hall_.coordinator().counters().demotions, 1u);
  EXPECT_EQ(hall_.coordinator().committed(), 1u);
  EXPECT_EQ(order(kA), Order::kCommit);
}

TEST_F(Rounds, ADemotedReceiverDoesNotDelayTheNextRound) {
  publish(1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kFailed);
  say("b", kB, Phase::kFailed);
  say("a", kA, Phase::kApplied, 1);
  ASSERT_FALSE(hall_.coordinator().round_open());

  publish(2);
  say("a", kA, Phase::kStaged);

  EXPECT_EQ(hall_.coordinator().committed(), 2u) << "b is not asked";
}

TEST_F(Rounds, ADemotedReceiverCatchesUpAloneAndTakesPartAgain) {
  publish(1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kFailed);
  say("b", kB, Phase::kFailed);
  say("a", kA, Phase::kApplied, 1);
  ASSERT_EQ(hall_.last<Prepare>(kB)->number, 1u);

  say("b", kB, Phase::kStaged);
  EXPECT_EQ(order(kB), Order::kCommit) << "that version is committed already";
  say("b", kB, Phase::kApplied, 1);
  EXPECT_EQ(hall_.coordinator().counters().catch_ups, 1u);
  publish(2);

  EXPECT_EQ(hall_.last<Prepare>(kB)->number, 2u);
  say("a", kA, Phase::kStaged);
  EXPECT_EQ(hall_.coordinator().committed(), 1u) << "b is waited for again";
}

TEST_F(Rounds, CatchUpsThatFailBackOff) {
  publish(1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kFailed);
  say("b", kB, Phase::kFailed);
  say("a", kA, Phase::kApplied, 1);
  const std::uint64_t before = attempt(kB);

  say("b", kB, Phase::kFailed);
  EXPECT_EQ(attempt(kB), before);
  hall_.pass(150ms);
  EXPECT_GT(attempt(kB), before);
}

TEST_F(Rounds, ASilentReceiverIsEvictedAndTheRestCommits) {
  publish(1);
  say("a", kA, Phase::kStaged);

  hall_.pass(3s);  // b says nothing

  EXPECT_EQ(hall_.coordinator().counters().receivers_evicted, 1u);
  EXPECT_EQ(hall_.coordinator().committed(), 1u);
}

TEST_F(Rounds, OneThatIsTooLateIsDemoted) {
  publish(1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaging);

  hall_.pass(11s);

  EXPECT_EQ(hall_.coordinator().counters().receivers_evicted, 0u);
  EXPECT_EQ(hall_.coordinator().counters().demotions, 1u) << "a was in time and only waited";
  EXPECT_EQ(hall_.coordinator().committed(), 1u);
  EXPECT_EQ(order(kA), Order::kCommit);
}

TEST_F(Rounds, ALaggingReceiverIsOutOfTheRound) {
  publish(1);
  say("a", kA, Phase::kStaged);

  say("b", kB, Phase::kStaging, 0, true);

  EXPECT_EQ(hall_.coordinator().committed(), 1u);
  EXPECT_EQ(hall_.coordinator().receivers()[1].state, "lagging");
}

TEST_F(Rounds, ARoundEndsWithItsSource) {
  publish(1);
  say("a", kA, Phase::kStaged);

  hall_.say(1, rank_member(0), Bye{});

  EXPECT_EQ(hall_.coordinator().committed(), 0u);
  EXPECT_EQ(order(kA), Order::kAbort);
  say("b", kB, Phase::kStaged);
  EXPECT_EQ(hall_.coordinator().committed(), 0u);
}

TEST_F(Rounds, APointWhoseRoundWasAbortedMayBeTakenAgain) {
  publish(3);
  hall_.say(1, rank_member(0), Bye{});
  hall_.join_source(0, 1, 4);
  hall_.state(0, hall_.ready(3, hall_.last<SourceOrders>(1)->grant_ordinal));
  const std::uint64_t first = attempt(kA);

  hall_.publish(3);

  EXPECT_GT(attempt(kA), first);
  EXPECT_EQ(hall_.last<Prepare>(kA)->number, 3u);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  EXPECT_EQ(hall_.coordinator().committed(), 3u);
}

TEST_F(Rounds, SourcesKeepWhatSomebodyStillFetches) {
  publish(1);
  EXPECT_EQ(hall_.last<SourceOrders>(1)->keep, std::vector<std::uint64_t>{1});
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  say("a", kA, Phase::kApplied, 1);
  say("b", kB, Phase::kApplied, 1);
  publish(2);

  EXPECT_EQ(hall_.last<SourceOrders>(1)->keep, (std::vector<std::uint64_t>{1, 2}));
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  EXPECT_EQ(hall_.last<SourceOrders>(1)->keep, std::vector<std::uint64_t>{2});
}

TEST_F(Rounds, AnOldStateDoesNotCount) {
  publish(1);
  say("a", kA, Phase::kStaged);
  ReceiverState old;
  old.sequence = 0;
  old.attempt = attempt(kB);
  old.phase = Phase::kStaged;

  hall_.say(kB, engine_member("b"), old);

  EXPECT_EQ(hall_.coordinator().committed(), 0u);
}

// ---- verdicts -------------------------------------------------------------------------------

class Flush : public Rounds {
 protected:
  Flush() : Rounds(config()) {}
  static CoordinatorConfig config() {
    CoordinatorConfig config;
    config.min_receivers = 2;
    return config;
  }
  void ask(std::uint64_t point, std::uint64_t grant, std::uint64_t ordinal = 1) {
    hall_.say(1, rank_member(0), FlushRequest{ordinal, point, grant});
  }
};

TEST_F(Flush, IsAnsweredWhenAllHaveApplied) {
  publish(1);
  ask(1, 1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  say("a", kA, Phase::kApplied, 1);
  EXPECT_FALSE(hall_.last<Verdict>(1));

  say("b", kB, Phase::kApplied, 1);

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->ordinal, 1u);
  EXPECT_EQ(verdict->number, 1u);
  EXPECT_EQ(verdict->applied, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(verdict->lost.empty());
  EXPECT_EQ(verdict->min_receivers, 2u);
}

TEST_F(Flush, NamesWhoWasLost) {
  publish(1);
  ask(1, 1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kFailed);
  say("b", kB, Phase::kFailed);
  say("a", kA, Phase::kApplied, 1);

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->applied, std::vector<std::string>{"a"});
  EXPECT_EQ(verdict->lost, std::vector<std::string>{"b"});
}

TEST_F(Flush, CountsWhoLeftWithIt) {
  publish(1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  say("a", kA, Phase::kApplied, 1);
  say("b", kB, Phase::kApplied, 1);
  hall_.say(kB, engine_member("b"), Bye{});

  ask(1, 1);

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->applied, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(verdict->lost.empty());
}

TEST_F(Flush, DoesNotCountWhoLeftBeforeItCame) {
  publish(1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kStaged);
  hall_.say(kB, engine_member("b"), Bye{});
  say("a", kA, Phase::kApplied, 1);

  ask(1, 1);

  EXPECT_FALSE(hall_.last<Verdict>(1)) << "one has applied it, two are asked for";
}

TEST_F(Flush, ALaterQuestionHearsTheSame) {
  publish(1);
  ask(1, 1);
  say("a", kA, Phase::kStaged);
  say("b", kB, Phase::kFailed);
  say("b", kB, Phase::kFailed);
  say("a", kA, Phase::kApplied, 1);
  const auto first = hall_.last<Verdict>(1);
  ASSERT_TRUE(first);
  say("b", kB, Phase::kStaged);
  say("b", kB, Phase::kApplied, 1);  // meanwhile it has caught up

  ask(1, 1, 2);

  const auto second = hall_.last<Verdict>(1);
  EXPECT_EQ(second->ordinal, 2u);
  EXPECT_EQ(second->applied, first->applied);
  EXPECT_EQ(second->lost, first->lost);
}

TEST_F(Flush, WaitsForAsManyReceiversAsAreAskedFor) {
  hall_.say(kB, engine_member("b"), Bye{});
  publish(1);
  ask(1, 1);
  say("a", kA, Phase::kStaged);
  say("a", kA, Phase::kApplied, 1);
  EXPECT_FALSE(hall_.last<Verdict>(1)) << "one receiver is there, two are asked for";

  hall_.join_receiver("c", 102);
  ASSERT_EQ(hall_.last<Prepare>(102)->number, 1u);
  ReceiverState applied;
  applied.attempt = hall_.last<Prepare>(102)->attempt;
  applied.phase = Phase::kApplied;
  applied.serving = {kRun, 1};
  hall_.state("c", 102, applied);

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->applied, (std::vector<std::string>{"a", "c"}));
}

TEST_F(Flush, AVoidPointIsAnsweredByZeroThoughTheNextGrantIsOpen) {
  SourceState stalled = hall_.ready(2, 1);
  stalled.grant_void = true;
  stalled.void_reason = "stall";
  hall_.state(0, stalled);
  ASSERT_TRUE(hall_.last<SourceOrders>(1)->grant_open);
  ASSERT_EQ(hall_.last<SourceOrders>(1)->grant_ordinal, 2u);

  ask(1, 1);

  const auto verdict = hall_.last<Verdict>(1);
  ASSERT_TRUE(verdict);
  EXPECT_EQ(verdict->number, 0u);
}

TEST_F(Flush, APointOnItsWayIsWaitedFor) {
  ask(1, 1);  // its share is not sealed yet

  EXPECT_FALSE(hall_.last<Verdict>(1));
}

}  // namespace
}  // namespace weightcast::protocol
