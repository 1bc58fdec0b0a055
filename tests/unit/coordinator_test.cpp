// Members, grants and what is decided about them; rounds stand in coordinator_rounds_test.cpp.
#include "protocol/coordinator.hpp"

#include <gtest/gtest.h>

#include "machine_messages.hpp"
#include "protocol/source.hpp"

namespace weightcast::protocol {
namespace {

using namespace test;

CoordinatorConfig ranks(std::uint32_t world_size) {
  CoordinatorConfig config;
  config.world_size = world_size;
  return config;
}

SourceState missed(std::uint64_t next_point, std::uint64_t grant) {
  SourceState state;
  state.next_point = next_point;
  state.ready = true;
  state.grant_ordinal = grant;
  state.grant_void = true;
  state.void_reason = kMissed;
  return state;
}

// ---- captures that are announced ------------------------------------------------------------

Capturing begun(std::uint32_t rank, std::uint64_t grant, std::uint64_t point) {
  return {grant, point, sealed_share(rank, grant, point).share};
}

TEST(CoordinatorAhead, IsSaidOnceEveryRankCaptures) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.join_receiver("engine", 9);
  hall.state(0, hall.ready(4));
  hall.state(1, hall.ready(4));

  hall.say(1, rank_member(0), begun(0, 1, 4));
  EXPECT_FALSE(hall.last<Ahead>(9));
  hall.say(2, rank_member(1), begun(1, 1, 4));

  const auto ahead = hall.last<Ahead>(9);
  ASSERT_TRUE(ahead);
  EXPECT_EQ(ahead->number, 4u);
  ASSERT_EQ(ahead->manifest.shares.size(), 2u);
  EXPECT_EQ(ahead->manifest.shares[1].object, "slot-1");
  EXPECT_EQ(hall.coordinator().published(), 0u) << "a hint makes no version";
}

TEST(CoordinatorAhead, IsNotSaidOfAnotherGrantOrPoint) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.join_receiver("engine", 9);
  hall.state(0, hall.ready(4));
  hall.state(1, hall.ready(4));
  hall.say(1, rank_member(0), begun(0, 1, 4));

  hall.say(2, rank_member(1), begun(1, 2, 4));
  hall.say(2, rank_member(1), begun(1, 1, 5));
  Capturing other = begun(1, 1, 4);
  other.share.rank = 0;
  hall.say(2, rank_member(1), other);

  EXPECT_FALSE(hall.last<Ahead>(9));
  EXPECT_EQ(hall.coordinator().counters().dropped, 3u);
}

// ---- grants ---------------------------------------------------------------------------------

TEST(CoordinatorGrant, WithOneRankItIsForTheNextPoint) {
  Hall hall(ranks(1));
  hall.join_source(0, 1);

  hall.state(0, hall.ready(1));

  const auto orders = hall.last<SourceOrders>(1);
  ASSERT_TRUE(orders);
  EXPECT_TRUE(orders->grant_open);
  EXPECT_EQ(orders->grant_point, kNextPoint);
}

TEST(CoordinatorGrant, WaitsForAllRanksToBeReady) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.state(0, hall.ready(1));
  EXPECT_FALSE(hall.last<SourceOrders>(1)->grant_open);
  hall.join_source(1, 2);
  SourceState full = hall.ready(1);
  full.ready = false;
  hall.state(1, full);
  EXPECT_FALSE(hall.last<SourceOrders>(1)->grant_open);

  hall.state(1, hall.ready(1));

  EXPECT_TRUE(hall.last<SourceOrders>(1)->grant_open);
  EXPECT_EQ(hall.last<SourceOrders>(1)->grant_point, hall.last<SourceOrders>(2)->grant_point);
}

TEST(CoordinatorGrant, MissedLooksTwiceAsFarAhead) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(10));
  hall.state(1, hall.ready(10));
  ASSERT_EQ(hall.last<SourceOrders>(1)->grant_point, 10u);

  // Each miss: lookahead 2, 4, 8.
  std::uint64_t grant = 1;
  for (const std::uint64_t ahead : {1u, 3u, 7u}) {
    hall.state(0, missed(20, grant));
    ++grant;
    EXPECT_EQ(hall.last<SourceOrders>(2)->grant_ordinal, grant);
    EXPECT_EQ(hall.last<SourceOrders>(2)->grant_point, 20 + ahead);
  }
  EXPECT_EQ(hall.coordinator().counters().grants_void, 3u);
}

TEST(CoordinatorGrant, TheLookaheadDecaysWithEveryVersion) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(10));
  hall.state(1, hall.ready(10));
  hall.state(0, missed(10, 1));
  hall.state(0, missed(10, 2));
  ASSERT_EQ(hall.last<SourceOrders>(1)->grant_point, 13u);

  hall.say(1, rank_member(0), sealed_share(0, 3, 13));
  hall.say(2, rank_member(1), sealed_share(1, 3, 13));

  // Nobody has to apply it, so the next grant comes at once: lookahead 2.
  EXPECT_EQ(hall.coordinator().committed(), 13u);
  EXPECT_EQ(hall.last<SourceOrders>(1)->grant_ordinal, 4u);
  EXPECT_EQ(hall.last<SourceOrders>(1)->grant_point, 11u);
}

TEST(CoordinatorGrant, OtherReasonsDoNotLookFurther) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(10));
  hall.state(1, hall.ready(10));

  SourceState stalled = missed(11, 1);
  stalled.void_reason = "stall";
  hall.state(0, stalled);

  EXPECT_EQ(hall.last<SourceOrders>(1)->grant_point, 11u);
}

TEST(CoordinatorGrant, ARankThatWaitsGetsItsPoint) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(10));
  hall.state(1, hall.ready(10));
  SourceState waiting = missed(12, 1);
  waiting.waiting = true;

  hall.state(1, waiting);

  EXPECT_EQ(hall.last<SourceOrders>(1)->grant_point, 12u);
}

TEST(CoordinatorGrant, WhoWaitsBehindTheOthersIsNotGrantedTheirPoint) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  SourceState behind = hall.ready(10);
  behind.waiting = true;
  hall.state(0, hall.ready(11));
  hall.state(1, behind);
  EXPECT_FALSE(hall.last<SourceOrders>(1)->grant_open) << "they could not meet";

  SourceState back = behind;
  hall.state(0, back);

  EXPECT_EQ(hall.last<SourceOrders>(1)->grant_point, 10u);
}

TEST(CoordinatorGrant, RanksWithOtherTensorsVoidThePoint) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(1));
  hall.state(1, hall.ready(1));
  Sealed other = sealed_share(1, 1, 1);
  other.layout_fingerprint = 8;

  hall.say(1, rank_member(0), sealed_share(0, 1, 1));
  hall.say(2, rank_member(1), other);

  EXPECT_EQ(hall.coordinator().published(), 0u);
  EXPECT_EQ(hall.coordinator().counters().grants_void, 1u);
  ASSERT_FALSE(hall.notes_.empty());
  bool told = false;
  for (const Note& note : hall.notes_) {
    told = told || (note.warning && note.text.find("ranks_disagree rank=1") != std::string::npos);
  }
  EXPECT_TRUE(told);
}

TEST(CoordinatorGrant, AShareOfAnotherPointVoidsIt) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(1));
  hall.state(1, hall.ready(1));

  hall.say(1, rank_member(0), sealed_share(0, 1, 2));

  EXPECT_EQ(hall.coordinator().counters().grants_void, 1u);
}

TEST(CoordinatorGrant, ALostRankVoidsIt) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(1));
  hall.state(1, hall.ready(1));
  hall.say(1, rank_member(0), sealed_share(0, 1, 1));

  hall.fall_silent(2);
  hall.pass(3s);

  EXPECT_EQ(hall.coordinator().counters().sources_evicted, 1u);
  EXPECT_EQ(hall.coordinator().published(), 0u);
  EXPECT_FALSE(hall.last<SourceOrders>(1)->grant_open);
}

TEST(CoordinatorGrant, ComparesTheRanksEverySoOftenAndCountsDrift) {
  CoordinatorConfig config = ranks(2);
  config.compare_every = 2;
  Hall hall(config);
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(1));
  hall.state(1, hall.ready(1));
  EXPECT_FALSE(hall.last<SourceOrders>(1)->compare);
  SourceState busy = hall.ready(2, 1);
  busy.ready = false;
  hall.state(0, busy);
  hall.state(1, busy);
  hall.say(1, rank_member(0), sealed_share(0, 1, 1));
  hall.say(2, rank_member(1), sealed_share(1, 1, 1));
  hall.state(0, hall.ready(2, 1));
  hall.state(1, hall.ready(2, 1));
  const auto orders = hall.last<SourceOrders>(1);
  ASSERT_TRUE(orders->compare);

  Sealed first = sealed_share(0, orders->grant_ordinal, orders->grant_point);
  Sealed second = sealed_share(1, orders->grant_ordinal, orders->grant_point);
  first.has_policy_digest = second.has_policy_digest = true;
  first.policy_digest = {1, 1};
  second.policy_digest = {1, 2};
  hall.say(1, rank_member(0), first);
  hall.say(2, rank_member(1), second);

  EXPECT_EQ(hall.coordinator().counters().drifted, 1u);
  EXPECT_EQ(hall.coordinator().published(), orders->grant_point) << "a warning, not a veto";
}

// ---- members --------------------------------------------------------------------------------

TEST(CoordinatorMembers, RanksThatStartTogetherCountByThemselves) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.state(0, hall.ready(2));  // rank 0 has passed point 1 already

  hall.join_source(1, 2, 0);

  EXPECT_EQ(hall.last<Welcome>(2)->next_point, 1u);
}

TEST(CoordinatorMembers, OneThatReplacesARankHearsWhereTheOthersAre) {
  Hall hall(ranks(2));
  hall.join_source(0, 2);
  hall.join_source(1, 2);
  hall.state(0, hall.ready(50));
  hall.pass(3s);  // rank 1 says nothing more
  ASSERT_EQ(hall.coordinator().counters().sources_evicted, 1u);

  Hello hello;
  hello.rank = 1;
  hello.world_size = 2;
  hello.launch = "launch";
  hello.policy = "actor";
  hall.say(7, rank_member(1, 9), hello, kNoRun);
  EXPECT_EQ(hall.last<Welcome>(7)->next_point, 50u);
  hall.say(7, rank_member(1, 9), hello, kNoRun);
  EXPECT_EQ(hall.last<Welcome>(7)->next_point, 50u) << "however often it asks";
}

TEST(CoordinatorMembers, RefusesAnotherLaunchAndSaysWhatToDo) {
  Hall hall(ranks(2));
  Hello hello;
  hello.rank = 1;
  hello.world_size = 2;
  hello.launch = "yesterday";
  hello.policy = "actor";

  hall.say(2, rank_member(1), hello, kNoRun);

  const auto refused = hall.last<Refused>(2);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason, Refusal::kLaunch);
  EXPECT_NE(refused->message.find("yesterday"), std::string::npos);
  EXPECT_EQ(hall.coordinator().sources_joined(), 0u);
}

TEST(CoordinatorMembers, RefusesAnotherWorldSize) {
  Hall hall(ranks(2));

  hall.join_source(1, 3);

  EXPECT_EQ(hall.last<Refused>(2)->reason, Refusal::kLaunch);
}

TEST(CoordinatorMembers, RefusesAnotherPolicy) {
  Hall hall(ranks(1));
  Hello hello;
  hello.policy = "critic";

  hall.say(100, engine_member("a"), hello, kNoRun);

  const auto refused = hall.last<Refused>(100);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->reason, Refusal::kPolicy);
  EXPECT_NE(refused->message.find("critic"), std::string::npos);
}

TEST(CoordinatorMembers, ANameIsTakenAsLongAsItsMemberLives) {
  Hall hall(ranks(1));
  hall.join_receiver("a", 100, 1);
  hall.state("a", 100, {});

  hall.join_receiver("a", 101, 2);
  EXPECT_EQ(hall.last<Refused>(101)->reason, Refusal::kNameTaken);

  hall.fall_silent(100);
  hall.pass(3s);
  hall.join_receiver("a", 101, 2);
  EXPECT_TRUE(hall.last<Welcome>(101));
}

TEST(CoordinatorMembers, TheSameConnectionMayRejoinAtOnce) {
  Hall hall(ranks(1));
  hall.join_receiver("a", 100, 1);

  hall.join_receiver("a", 100, 2);

  EXPECT_TRUE(hall.last<Welcome>(100));
  EXPECT_FALSE(hall.last<Refused>(100));
  EXPECT_EQ(hall.coordinator().counters().rejoins, 1u);
}

TEST(CoordinatorMembers, WhatAFormerStaySaysIsRefusedAsStale) {
  Hall hall(ranks(1));
  hall.join_receiver("a", 100, 1);
  hall.join_receiver("a", 100, 2);
  hall.forget();

  hall.say(100, engine_member("a", 1), ReceiverState{});

  EXPECT_EQ(hall.last<Refused>(100)->reason, Refusal::kStale);
}

TEST(CoordinatorMembers, ADelayedHelloOfAFormerStayIsDropped) {
  Hall hall(ranks(1));
  hall.join_receiver("a", 100, 5);
  hall.forget();

  hall.join_receiver("a", 100, 4);

  EXPECT_FALSE(hall.last<Welcome>(100));
  EXPECT_FALSE(hall.last<Refused>(100));
  EXPECT_EQ(hall.coordinator().receivers().size(), 1u);
}

TEST(CoordinatorMembers, ARefusedHelloLeavesNoTrace) {
  Hall hall(ranks(2));
  Hello stranger;
  stranger.rank = 1;
  stranger.world_size = 7;
  hall.say(9, Member{Role::kSource, "rank-1", ~std::uint64_t{0}}, stranger);
  ASSERT_TRUE(hall.last<Refused>(9));

  hall.join_source(1, 2);

  EXPECT_TRUE(hall.last<Welcome>(2)) << "an incarnation that was never welcome keeps nobody out";
}

TEST(CoordinatorMembers, ANewerRunEndsTheGrants) {
  Hall hall(ranks(1));
  hall.join_source(0, 1);
  hall.state(0, hall.ready(1));
  ASSERT_TRUE(hall.last<SourceOrders>(1)->grant_open);
  Hello hello;
  hello.policy = "actor";
  hello.highest_run = kNewerRun;

  hall.say(100, engine_member("a"), hello, kNewerRun);
  hall.state(0, hall.ready(2));

  EXPECT_TRUE(hall.coordinator().superseded());
  EXPECT_EQ(hall.last<Refused>(100)->reason, Refusal::kSuperseded);
  EXPECT_FALSE(hall.last<SourceOrders>(1)->grant_open);
}

TEST(CoordinatorMembers, MessagesOfAnOlderRunAreDropped) {
  Hall hall(ranks(1));
  hall.join_receiver("a", 100);
  const std::uint64_t dropped = hall.coordinator().counters().dropped;

  hall.say(100, engine_member("a"), ReceiverState{}, kOlderRun);

  EXPECT_EQ(hall.coordinator().counters().dropped, dropped + 1);
}

TEST(CoordinatorMembers, APauseOfItsOwnEvictsNobody) {
  Hall hall(ranks(1));
  hall.join_receiver("a", 100);

  hall.coordinator().tick(hall.now() + 1h);

  EXPECT_EQ(hall.coordinator().counters().receivers_evicted, 0u);
  EXPECT_EQ(hall.coordinator().receivers().size(), 1u);
}

}  // namespace
}  // namespace weightcast::protocol
