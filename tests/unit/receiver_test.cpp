#include "protocol/receiver.hpp"

#include <gtest/gtest.h>

#include "machine_messages.hpp"

namespace weightcast::protocol {
namespace {

using namespace test;

class ReceiverTest : public testing::Test {
 protected:
  ReceiverTest() : receiver_(config(), kStart) {}

  static ReceiverConfig config() {
    ReceiverConfig config;
    config.name = "engine";
    config.policy = "actor";
    return config;
  }

  void hear(Body body, const weightcast::Run& run = kRun) {
    receiver_.receive(now_, Message{run, engine_member("engine", receiver_.incarnation()), body});
  }
  void prepare(std::uint64_t attempt, std::uint64_t number, const weightcast::Run& run = kRun) {
    hear(Prepare{attempt, number, {}}, run);
  }
  void order(std::uint64_t attempt, Order order, const weightcast::Run& run = kRun) {
    ReceiverOrders orders;
    orders.sequence = ++sequence_;
    orders.attempt = attempt;
    orders.order = order;
    hear(orders, run);
  }
  /// The one action of kind `Action` since the last call, if there was exactly one action.
  template <class Action>
  std::optional<Action> only_action() {
    const auto actions = receiver_.take_actions();
    if (actions.size() != 1 || !std::holds_alternative<Action>(actions[0])) return std::nullopt;
    return std::get<Action>(actions[0]);
  }
  ReceiverState last_state() {
    const auto states = all_of<ReceiverState>(receiver_.take_outbox());
    return states.empty() ? ReceiverState{} : states.back();
  }
  void serve(std::uint64_t attempt, std::uint64_t number) {
    prepare(attempt, number);
    const auto start = only_action<StartStage>();
    ASSERT_TRUE(start);
    receiver_.stage_done(now_, start->op, Status::ok());
    order(attempt, Order::kCommit);
    const auto change = only_action<Switch>();
    ASSERT_TRUE(change);
    receiver_.switched(now_, change->op);
  }

  Clock::time_point now_ = kStart;
  std::uint64_t sequence_ = 0;
  Receiver receiver_;
};

TEST_F(ReceiverTest, ReadsAheadOnlyWhileItIsIdleAndOfNewerVersions) {
  hear(Welcome{});
  serve(1, 10);

  hear(Ahead{10, {}});
  EXPECT_TRUE(receiver_.take_actions().empty());
  hear(Ahead{11, {}});
  const auto ahead = only_action<ReadAhead>();
  ASSERT_TRUE(ahead);
  EXPECT_EQ(ahead->version, (Version{kRun, 11}));

  prepare(2, 11);
  ASSERT_TRUE(only_action<StartStage>());
  hear(Ahead{12, {}});
  EXPECT_TRUE(receiver_.take_actions().empty()) << "its spare copy is being written";
  EXPECT_EQ(receiver_.dropped(), 0u);
}

TEST_F(ReceiverTest, RepeatsItsHelloUntilItIsWelcome) {
  receiver_.tick(now_);
  EXPECT_EQ(all_of<Hello>(receiver_.take_outbox()).size(), 1u);
  now_ += 100ms;
  receiver_.tick(now_);
  EXPECT_EQ(all_of<Hello>(receiver_.take_outbox()).size(), 1u);

  hear(Welcome{});

  EXPECT_TRUE(receiver_.attached());
  EXPECT_EQ(all_of<ReceiverState>(receiver_.take_outbox()).size(), 1u);
}

TEST_F(ReceiverTest, BecomingInPlaceJoinsAgainAndGivesUpWhatItStages) {
  hear(Welcome{});
  prepare(1, 5);
  const auto start = only_action<StartStage>();
  ASSERT_TRUE(start);
  receiver_.take_outbox();
  const auto before = receiver_.incarnation();

  receiver_.become_in_place(now_);
  receiver_.stage_done(now_, start->op, Status(Code::kCancelled, "joining again"));

  EXPECT_TRUE(only_action<CancelStage>());
  EXPECT_EQ(receiver_.incarnation(), before + 1);
  EXPECT_FALSE(receiver_.attached());
  const auto hellos = all_of<Hello>(receiver_.take_outbox());
  ASSERT_EQ(hellos.size(), 1u);
  EXPECT_TRUE(hellos[0].in_place);

  receiver_.become_in_place(now_);
  EXPECT_EQ(receiver_.incarnation(), before + 1) << "once is enough";
  hear(Welcome{});
  prepare(1, 5);
  EXPECT_TRUE(only_action<StartStage>()) << "the next attempt starts at once";
}

TEST_F(ReceiverTest, SaysStagedOnlyWhenItIsAndServesOnlyWhenTold) {
  hear(Welcome{});
  prepare(1, 5);
  const auto start = only_action<StartStage>();
  ASSERT_TRUE(start);
  EXPECT_EQ(start->version, (Version{kRun, 5}));
  EXPECT_EQ(last_state().phase, Phase::kStaging);

  order(1, Order::kHold);
  EXPECT_TRUE(receiver_.take_actions().empty());
  receiver_.stage_done(now_, start->op, Status::ok());
  EXPECT_EQ(last_state().phase, Phase::kStaged);
  EXPECT_TRUE(receiver_.serving().is_none());

  order(1, Order::kCommit);
  const auto change = only_action<Switch>();
  ASSERT_TRUE(change);
  EXPECT_TRUE(receiver_.serving().is_none()) << "not before the switch has happened";
  receiver_.switched(now_, change->op);

  EXPECT_EQ(receiver_.serving(), (Version{kRun, 5}));
  EXPECT_EQ(last_state().phase, Phase::kApplied);
}

TEST_F(ReceiverTest, ARepeatedCommitSwitchesOnce) {
  hear(Welcome{});
  prepare(1, 5);
  receiver_.stage_done(now_, only_action<StartStage>()->op, Status::ok());

  order(1, Order::kCommit);
  order(1, Order::kCommit);

  EXPECT_EQ(receiver_.take_actions().size(), 1u);
}

TEST_F(ReceiverTest, ACommitOfAnotherAttemptIsNotObeyed) {
  hear(Welcome{});
  prepare(2, 6);
  receiver_.stage_done(now_, only_action<StartStage>()->op, Status::ok());

  order(1, Order::kCommit);

  EXPECT_TRUE(receiver_.take_actions().empty());
}

TEST_F(ReceiverTest, ACommitBeforeItHasStagedWaits) {
  hear(Welcome{});
  prepare(1, 5);
  const auto start = only_action<StartStage>();
  order(1, Order::kCommit);
  EXPECT_TRUE(receiver_.take_actions().empty());

  receiver_.stage_done(now_, start->op, Status::ok());
  order(1, Order::kCommit);

  EXPECT_TRUE(only_action<Switch>());
}

TEST_F(ReceiverTest, AnOlderVersionIsAnsweredWithoutStagingIt) {
  hear(Welcome{});
  serve(1, 5);
  receiver_.take_outbox();

  prepare(2, 4);

  EXPECT_TRUE(receiver_.take_actions().empty());
  const ReceiverState state = last_state();
  EXPECT_EQ(state.phase, Phase::kApplied);
  EXPECT_EQ(state.serving, (Version{kRun, 5}));
}

TEST_F(ReceiverTest, ARepeatedPrepareChangesNothing) {
  hear(Welcome{});
  prepare(1, 5);
  receiver_.take_actions();

  prepare(1, 5);

  EXPECT_TRUE(receiver_.take_actions().empty());
  EXPECT_EQ(receiver_.dropped(), 1u);
}

TEST_F(ReceiverTest, ANewStagingWaitsForTheEndOfTheCancelledOne) {
  hear(Welcome{});
  prepare(1, 5);
  const auto first = only_action<StartStage>();
  ASSERT_TRUE(first);

  prepare(2, 6);
  const auto cancel = only_action<CancelStage>();
  ASSERT_TRUE(cancel);
  EXPECT_EQ(cancel->op, first->op);

  receiver_.stage_done(now_, first->op, Status(Code::kCancelled, "as asked"));
  const auto second = only_action<StartStage>();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->version, (Version{kRun, 6}));
}

TEST_F(ReceiverTest, ACancelledStagingThatEndedWellIsDropped) {
  hear(Welcome{});
  prepare(1, 5);
  const auto first = only_action<StartStage>();
  order(1, Order::kAbort);
  ASSERT_TRUE(only_action<CancelStage>());

  receiver_.stage_done(now_, first->op, Status::ok());

  const auto drop = only_action<DropStaged>();
  ASSERT_TRUE(drop);
  EXPECT_EQ(drop->op, first->op);
}

TEST_F(ReceiverTest, AnAbortDropsWhatIsStaged) {
  hear(Welcome{});
  prepare(1, 5);
  receiver_.stage_done(now_, only_action<StartStage>()->op, Status::ok());
  receiver_.take_outbox();

  order(1, Order::kAbort);

  EXPECT_TRUE(only_action<DropStaged>());
  EXPECT_EQ(last_state().phase, Phase::kIdle);
}

TEST_F(ReceiverTest, AFailureIsSaidWithItsReason) {
  hear(Welcome{});
  prepare(1, 5);

  receiver_.stage_done(now_, only_action<StartStage>()->op, Status(Code::kMismatch, "digest"));

  const ReceiverState state = last_state();
  EXPECT_EQ(state.phase, Phase::kFailed);
  EXPECT_EQ(state.failure, "mismatch: digest");
}

TEST_F(ReceiverTest, NeverObeysAnOlderRunAgain) {
  hear(Welcome{}, kNewerRun);
  ASSERT_EQ(receiver_.run(), kNewerRun);

  hear(Welcome{}, kRun);
  prepare(9, 9, kRun);
  hear(Refused{Refusal::kStale, ""}, kRun);

  EXPECT_EQ(receiver_.run(), kNewerRun);
  EXPECT_TRUE(receiver_.take_actions().empty());
  EXPECT_EQ(receiver_.dropped(), 3u);
}

TEST_F(ReceiverTest, AttemptsCountAnewInANewerRun) {
  hear(Welcome{}, kRun);
  serve(40, 5);

  hear(Welcome{}, kNewerRun);
  prepare(1, 1, kNewerRun);

  const auto start = only_action<StartStage>();
  ASSERT_TRUE(start);
  EXPECT_EQ(start->version, (Version{kNewerRun, 1}));
}

TEST_F(ReceiverTest, RejoinsWithAHigherIncarnationWhenRefusedAsStale) {
  hear(Welcome{});
  const std::uint64_t stay = receiver_.incarnation();

  hear(Refused{Refusal::kStale, "evicted"});

  EXPECT_FALSE(receiver_.attached());
  EXPECT_EQ(receiver_.incarnation(), stay + 1);
  EXPECT_EQ(receiver_.rejoined(), 1u);
  EXPECT_EQ(all_of<Hello>(receiver_.take_outbox()).size(), 1u);
}

TEST_F(ReceiverTest, AfterSilenceItConnectsAnewAndRejoins) {
  hear(Welcome{});

  for (int i = 0; i < 50 && receiver_.attached(); ++i) {
    now_ += 50ms;
    receiver_.tick(now_);
  }

  EXPECT_FALSE(receiver_.attached());
  EXPECT_TRUE(receiver_.take_reconnect());
  EXPECT_FALSE(receiver_.take_reconnect()) << "once";
}

TEST_F(ReceiverTest, APauseOfItsOwnIsNotTheOthersSilence) {
  hear(Welcome{});
  receiver_.tick(now_);

  now_ += 1h;
  receiver_.tick(now_);

  EXPECT_TRUE(receiver_.attached());
}

TEST_F(ReceiverTest, NothingIsHeardAfterLeaving) {
  hear(Welcome{});
  receiver_.take_outbox();

  receiver_.leave(now_, {kRun, 1});
  prepare(1, 5);

  const auto said = receiver_.take_outbox();
  ASSERT_EQ(said.size(), 2u);
  const auto* const last = std::get_if<ReceiverState>(&said[0].body);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->serving, (Version{kRun, 1})) << "what its leases get at last";
  EXPECT_TRUE(std::holds_alternative<Bye>(said[1].body));
  EXPECT_TRUE(receiver_.take_actions().empty());
}

}  // namespace
}  // namespace weightcast::protocol
