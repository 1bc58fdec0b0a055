#include "protocol/source.hpp"

#include <gtest/gtest.h>

#include "machine_messages.hpp"

namespace weightcast::protocol {
namespace {

using namespace test;
using Kind = PointDecision::Kind;

class FreeLocks final : public SlotLocks {
 public:
  bool try_lock(std::uint32_t) override { return !all_read; }
  void unlock(std::uint32_t) override {}
  bool all_read = false;
};

class SourceTest : public testing::Test {
 protected:
  SourceTest() { restart({}); }

  void restart(SourceConfig config) {
    config.rank = 1;
    config.world_size = 2;
    config.launch = "launch";
    config.policy = "actor";
    book_.emplace(3, locks_);
    source_.emplace(config, *book_, kStart);
  }
  void hear(Body body, const weightcast::Run& run = kRun, std::uint64_t incarnation = 1) {
    source_->receive(now_, Message{run, rank_member(1, incarnation), std::move(body)});
  }
  SourceOrders grant(std::uint64_t ordinal, std::uint64_t point, bool open = true) {
    SourceOrders orders;
    orders.sequence = ++sequence_;
    orders.grant_ordinal = ordinal;
    orders.grant_point = point;
    orders.grant_open = open;
    return orders;
  }
  SourceState last_state() {
    const auto states = all_of<SourceState>(source_->take_outbox());
    return states.empty() ? SourceState{} : states.back();
  }
  void pass(Duration time) {
    for (const Clock::time_point end = now_ + time; now_ < end;) {
      now_ += 10ms;
      source_->tick(now_);
    }
  }

  Clock::time_point now_ = kStart;
  std::uint64_t sequence_ = 0;
  FreeLocks locks_;
  std::optional<SlotBook> book_;
  std::optional<Source> source_;
};

TEST_F(SourceTest, AnnouncesACaptureThatIsNotVoid) {
  hear(Welcome{1});
  hear(grant(1, 1));
  ASSERT_EQ(source_->at_point(now_, true).kind, Kind::kCapture);
  source_->take_outbox();

  source_->capture_begun(sealed_share(1, 1, 1).share);
  const auto said = all_of<Capturing>(source_->take_outbox());
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(said[0].grant_ordinal, 1u);
  EXPECT_EQ(said[0].point, 1u);

  hear(grant(1, 1, false));
  source_->capture_begun(sealed_share(1, 1, 1).share);
  EXPECT_TRUE(all_of<Capturing>(source_->take_outbox()).empty());
}

TEST_F(SourceTest, CapturesExactlyAtTheGrantedPoint) {
  hear(Welcome{1});
  hear(grant(1, 3));

  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce);
  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce);
  const PointDecision third = source_->at_point(now_, true);
  EXPECT_EQ(third.kind, Kind::kCapture);
  EXPECT_EQ(third.point, 3u);
  EXPECT_EQ(third.run, kRun);
  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce) << "a grant is for one point";
}

TEST_F(SourceTest, SaysMissedWhenItIsPastTheGrantedPoint) {
  hear(Welcome{1});
  for (int i = 0; i < 5; ++i) source_->at_point(now_, true);
  source_->take_outbox();

  hear(grant(1, 3));

  const SourceState state = last_state();
  EXPECT_EQ(state.grant_ordinal, 1u);
  EXPECT_TRUE(state.grant_void);
  EXPECT_EQ(state.void_reason, kMissed);
  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce);
}

TEST_F(SourceTest, WaitsOnlyAfterMaxCoalescedPoints) {
  SourceConfig config;
  config.max_coalesced = 2;
  restart(config);
  hear(Welcome{1});

  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce);
  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce);
  source_->take_outbox();
  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kWait);

  EXPECT_TRUE(last_state().waiting);
  EXPECT_EQ(source_->next_point(), 3u) << "the point is not passed while it waits";
  EXPECT_EQ(source_->at_point(now_, false).kind, Kind::kCoalesce) << "the stall is over";
  EXPECT_FALSE(last_state().waiting);
}

TEST_F(SourceTest, ACaptureEndsTheRowOfCoalescedPoints) {
  SourceConfig config;
  config.max_coalesced = 1;
  restart(config);
  hear(Welcome{1});
  source_->at_point(now_, true);
  ASSERT_EQ(source_->at_point(now_, true).kind, Kind::kWait);

  hear(grant(1, 2));
  ASSERT_TRUE(source_->granted_now());
  ASSERT_EQ(source_->at_point(now_, true).kind, Kind::kCapture);

  EXPECT_EQ(source_->at_point(now_, true).kind, Kind::kCoalesce);
}

TEST_F(SourceTest, InsistsForAFlush) {
  hear(Welcome{1});

  EXPECT_EQ(source_->at_point(now_, true, true).kind, Kind::kWait);
}

TEST_F(SourceTest, AFlushTakesTheLastPointAgainWhateverComesOfIt) {
  hear(Welcome{1});
  for (int i = 0; i < 4; ++i) source_->at_point(now_, true);
  ASSERT_EQ(source_->next_point(), 5u);

  for (int tries = 0; tries < 3; ++tries) {
    EXPECT_EQ(source_->at_point(now_, true, true).kind, Kind::kWait);
    EXPECT_EQ(source_->next_point(), 4u) << "the one that was just passed";
    source_->at_point(now_, false);
    EXPECT_EQ(source_->next_point(), 5u) << "the count of all ranks, however their flush went";
  }
}

TEST_F(SourceTest, AFlushIsGrantedTheLastPoint) {
  hear(Welcome{1});
  for (int i = 0; i < 4; ++i) source_->at_point(now_, true);
  hear(grant(1, 6));  // runs ahead of need
  source_->take_outbox();

  ASSERT_EQ(source_->at_point(now_, true, true).kind, Kind::kWait);
  const SourceState state = last_state();
  EXPECT_TRUE(state.waiting);
  EXPECT_TRUE(state.grant_void) << "nobody comes to point 6 before the flush ends";
  EXPECT_NE(state.void_reason, kMissed);
  hear(grant(2, 4));

  ASSERT_TRUE(source_->granted_now());
  const PointDecision decision = source_->at_point(now_, false);
  EXPECT_EQ(decision.kind, Kind::kCapture);
  EXPECT_EQ(decision.point, 4u);
  EXPECT_EQ(source_->next_point(), 5u);
}

TEST_F(SourceTest, ASkippedPointIsVoidIfItWasGranted) {
  hear(Welcome{1});
  hear(grant(1, 1));

  EXPECT_EQ(source_->skip_point(now_, "the step threw"), 1u);

  const SourceState state = last_state();
  EXPECT_TRUE(state.grant_void);
  EXPECT_EQ(state.void_reason, "the step threw");
  EXPECT_EQ(state.next_point, 2u);
}

TEST_F(SourceTest, AFailedCaptureVoidsItsGrant) {
  hear(Welcome{1});
  hear(grant(1, 1));
  ASSERT_EQ(source_->at_point(now_, true).kind, Kind::kCapture);

  source_->capture_failed(now_, "stall");

  const SourceState state = last_state();
  EXPECT_TRUE(state.grant_void);
  EXPECT_EQ(state.void_reason, "stall");
  EXPECT_EQ(source_->last_captured(), 0u);
}

TEST_F(SourceTest, ACaptureOfAVoidGrantIsToBeCancelledAndItsEndIsAwaited) {
  hear(Welcome{1});
  hear(grant(1, 1));
  const PointDecision decision = source_->at_point(now_, true);

  hear(grant(1, 1, false));

  EXPECT_TRUE(source_->wants_cancel());
  EXPECT_EQ(book_->writing(), decision.slot) << "in quarantine";
  source_->take_outbox();
  source_->capture_sealed(now_, sealed_share(1, 1, 1));
  EXPECT_FALSE(book_->writing());
  EXPECT_TRUE(all_of<Sealed>(source_->take_outbox()).empty());
}

TEST_F(SourceTest, RepeatsALostShareHoweverOftenPointsCome) {
  hear(Welcome{1});
  hear(grant(1, 1));
  source_->at_point(now_, true);
  source_->capture_sealed(now_, sealed_share(1, 1, 1));
  source_->take_outbox();

  std::size_t repeated = 0;
  for (int i = 0; i < 30; ++i) {
    now_ += 10ms;  // ten points in a heartbeat: each says its state
    source_->at_point(now_, true);
    source_->tick(now_);
    repeated += all_of<Sealed>(source_->take_outbox()).size();
  }
  EXPECT_GE(repeated, 2u);

  SourceOrders orders = grant(1, 1);
  orders.sealed_ordinal = 1;
  hear(orders);
  pass(300ms);
  EXPECT_TRUE(all_of<Sealed>(source_->take_outbox()).empty()) << "it has arrived";
}

TEST_F(SourceTest, AFlushIsRepeatedUntilItsVerdict) {
  hear(Welcome{1});
  EXPECT_FALSE(source_->request_flush(now_)) << "nothing was captured";
  hear(grant(1, 1));
  source_->at_point(now_, true);
  source_->capture_sealed(now_, sealed_share(1, 1, 1));

  ASSERT_TRUE(source_->request_flush(now_));
  const auto asked = all_of<FlushRequest>(source_->take_outbox());
  ASSERT_EQ(asked.size(), 1u);
  EXPECT_EQ(asked[0].point, 1u);
  pass(150ms);
  EXPECT_EQ(all_of<FlushRequest>(source_->take_outbox()).size(), 1u);

  Verdict verdict;
  verdict.ordinal = asked[0].ordinal + 1;
  hear(verdict);
  EXPECT_FALSE(source_->verdict()) << "the answer to another question";
  verdict.ordinal = asked[0].ordinal;
  verdict.number = 1;
  hear(verdict);
  ASSERT_TRUE(source_->verdict());
  EXPECT_EQ(source_->verdict()->number, 1u);
}

TEST_F(SourceTest, ANewRunAnswersAnOpenFlushAsVoid) {
  hear(Welcome{1});
  hear(grant(1, 1));
  source_->at_point(now_, true);
  source_->capture_sealed(now_, sealed_share(1, 1, 1));
  source_->request_flush(now_);

  hear(Welcome{1}, kNewerRun);

  ASSERT_TRUE(source_->verdict());
  EXPECT_EQ(source_->verdict()->number, 0u);
  EXPECT_EQ(source_->last_captured(), 0u);
}

TEST_F(SourceTest, ARankThatCountedAlreadyKeepsItsCount) {
  source_->at_point(now_, true);
  source_->at_point(now_, true);

  hear(Welcome{1});

  EXPECT_EQ(source_->next_point(), 3u);
}

TEST_F(SourceTest, OneThatReplacesAnotherGoesOnWhereTheOthersAre) {
  source_->at_point(now_, true);

  hear(Welcome{41});

  EXPECT_EQ(source_->next_point(), 41u);
}

TEST_F(SourceTest, PointsCountAnewInANewRun) {
  hear(Welcome{41});

  hear(Welcome{3}, kNewerRun);

  EXPECT_EQ(source_->next_point(), 3u);
  EXPECT_EQ(source_->run(), kNewerRun);
}

TEST_F(SourceTest, AnOlderRunIsNotObeyed) {
  hear(Welcome{1}, kNewerRun);

  hear(Welcome{9}, kRun);
  hear(grant(1, 1), kRun);

  EXPECT_EQ(source_->run(), kNewerRun);
  EXPECT_FALSE(source_->granted_now());
}

TEST_F(SourceTest, WithoutAFreeSlotItIsNotReadyAndLooksAgainSoon) {
  locks_.all_read = true;
  hear(Welcome{1});
  EXPECT_FALSE(last_state().ready);
  EXPECT_NE(source_->blocked().find("no free slot"), std::string::npos);
  source_->tick(now_);
  EXPECT_LE(source_->next_wakeup(), now_ + 2ms);

  locks_.all_read = false;
  pass(10ms);

  EXPECT_TRUE(last_state().ready);
}

TEST_F(SourceTest, RefusedAsStaleItRejoinsAndKeepsItsCount) {
  hear(Welcome{1});
  source_->at_point(now_, true);
  source_->take_outbox();

  hear(Refused{Refusal::kStale, "evicted"});

  const auto hellos = all_of<Hello>(source_->take_outbox());
  ASSERT_EQ(hellos.size(), 1u);
  EXPECT_EQ(hellos[0].next_point, 2u);
  EXPECT_EQ(hellos[0].highest_run, kRun);
  hear(Welcome{7}, kRun, 2);
  EXPECT_TRUE(source_->joined());
  EXPECT_EQ(source_->next_point(), 2u);
}

TEST_F(SourceTest, OtherRefusalsAreShownAndTriedAgain) {
  hear(Refused{Refusal::kLaunch, "start all ranks by one torchrun"});

  EXPECT_FALSE(source_->joined());
  EXPECT_EQ(source_->blocked(), "start all ranks by one torchrun");
  source_->take_outbox();
  pass(200ms);
  EXPECT_GE(all_of<Hello>(source_->take_outbox()).size(), 1u);
}

}  // namespace
}  // namespace weightcast::protocol
