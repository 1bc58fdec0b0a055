#include "unit/nccl_session_fixture.hpp"

namespace weightcast::transport {
namespace {

using Phase = SessionGuest::Phase;
using Kind = SessionAnswer::Kind;
using HostAction = SessionHost::Action;

class SessionHostTest : public ::testing::Test {
 protected:
  HostAction only_action() {
    auto actions = host.take_actions();
    EXPECT_EQ(actions.size(), 1u);
    return actions.empty() ? HostAction{} : actions[0];
  }
  /// Answers kMakeId. @return kStart
  HostAction start() {
    const HostAction make = only_action();
    EXPECT_EQ(make.kind, HostAction::Kind::kMakeId);
    host.id_made(make.session, id_of(make.session), now);
    const HostAction action = only_action();
    EXPECT_EQ(action.kind, HostAction::Kind::kStart);
    return action;
  }
  void pass(Duration time) {
    now += time;
    host.tick(now);
  }

  Clock::time_point now = Clock::now();
  SessionOptions options{.expected = 2};
  SessionHost host{options};
};

TEST_F(SessionHostTest, AllWhoAreExpectedGoTogetherFromTheFirstBucketThatSomebodyLacks) {
  host.offer(offer_of(1), now);
  SessionAsk second = ask_of(2);
  second.have = 4;
  EXPECT_EQ(host.ask(second, now).kind, Kind::kWait);
  EXPECT_TRUE(host.take_actions().empty());
  SessionAsk first = ask_of(1);
  first.have = 7;
  EXPECT_EQ(host.ask(first, now).kind, Kind::kWait);
  const HostAction action = start();
  EXPECT_EQ(action.size, 3);
  EXPECT_EQ(action.first, 4u);
  EXPECT_EQ(action.receivers, (std::vector<std::string>{"engine2", "engine1"}));
  for (int twice = 0; twice < 2; ++twice) {
    const SessionAnswer go = host.ask(first, now);
    EXPECT_EQ(go.kind, Kind::kGo);
    EXPECT_EQ(go.rank, 2);
    EXPECT_EQ(go.size, 3);
    EXPECT_EQ(go.first, 4u);
    EXPECT_EQ(go.id, id_of(go.session));
  }
  EXPECT_EQ(host.ask(second, now).rank, 1);
}

TEST_F(SessionHostTest, AnOfferKnowsHowManyAreExpectedOfIt) {
  SessionOffer offer = offer_of(1);
  offer.expected = 1;
  host.offer(offer, now);
  EXPECT_TRUE(host.is_idle());
  host.ask(ask_of(1), now);
  EXPECT_FALSE(host.is_idle());
  EXPECT_EQ(start().receivers, std::vector<std::string>{"engine1"});
}

TEST_F(SessionHostTest, WhoIsGoneIsWaitedForNoMore) {
  host.offer(offer_of(1), now);
  host.ask(ask_of(1), now);
  host.gone("engine1", now);
  EXPECT_TRUE(host.is_idle());
  host.gone("engine1", now);
  // While the id is being made: it begins anew, without.
  host.ask(ask_of(1), now);
  host.ask(ask_of(2), now);
  const HostAction late = only_action();
  host.gone("engine1", now);
  host.id_made(late.session, id_of(late.session), now);
  EXPECT_TRUE(host.take_actions().empty());
  host.ask(ask_of(3), now);
  const HostAction running = start();
  EXPECT_EQ(running.receivers, (std::vector<std::string>{"engine2", "engine3"}));
  // In the middle: the session cannot come to its end.
  host.gone("engine2", now);
  const HostAction abort = only_action();
  EXPECT_EQ(abort.kind, HostAction::Kind::kAbort);
  EXPECT_EQ(abort.session, running.session);
}

TEST_F(SessionHostTest, ASessionBeginsWithThoseWhoHaveJustAsked) {
  options.fresh = std::chrono::milliseconds(60);
  host = SessionHost(options);
  host.offer(offer_of(1), now);
  host.ask(ask_of(1), now);
  pass(std::chrono::milliseconds(70));
  host.ask(ask_of(2), now);
  EXPECT_TRUE(host.take_actions().empty()) << "the first one may have gone";
  host.ask(ask_of(1), now);
  EXPECT_EQ(start().receivers.size(), 2u);
}

TEST_F(SessionHostTest, WhoIsMissingIsNotWaitedForBeyondTheWindowAndGoesNext) {
  host.offer(offer_of(1), now);
  (void)host.ask(ask_of(1), now);
  pass(options.window / 2);
  EXPECT_TRUE(host.take_actions().empty());
  pass(options.window / 2);
  const HostAction first = start();
  EXPECT_EQ(first.receivers, (std::vector<std::string>{"engine1"}));
  EXPECT_EQ(host.ask(ask_of(2), now).kind, Kind::kWait);
  host.flow_ended(first.session, {}, now);
  (void)host.ask(ask_of(2), now);
  pass(options.window);
  const HostAction second = start();
  EXPECT_EQ(second.receivers, (std::vector<std::string>{"engine2"}));
  EXPECT_GT(second.session, first.session);
}

TEST_F(SessionHostTest, AFailureOfOneAbortsTheOthersAndTheSilentAreLeftOut) {
  host.offer(offer_of(1), now);
  (void)host.ask(ask_of(1), now);
  (void)host.ask(ask_of(2), now);
  const HostAction first = start();
  SessionAsk again = ask_of(1);
  again.failed = first.session;
  again.have = 5;
  again.is_ready = false;
  EXPECT_EQ(host.ask(again, now).kind, Kind::kWait);
  EXPECT_EQ(only_action().kind, HostAction::Kind::kAbort);
  host.flow_ended(first.session, {Code::kUnavailable, "gone"}, now);
  // It goes on asking until its aborts are over; engine2 is dead.
  for (Duration waited{}; waited <= options.silent; waited += options.ask_every) {
    pass(options.ask_every);
    (void)host.ask(again, now);
    EXPECT_TRUE(host.take_actions().empty());
  }
  again.is_ready = true;
  (void)host.ask(again, now);
  const HostAction second = start();
  EXPECT_EQ(second.receivers, (std::vector<std::string>{"engine1"}));
  EXPECT_EQ(second.first, 5u);
}

TEST_F(SessionHostTest, AfterFailuresInARowItSendsThemToAnotherTransport) {
  host.offer(offer_of(1), now);
  for (std::uint32_t i = 0; i < options.failures; ++i) {
    (void)host.ask(ask_of(1), now);
    (void)host.ask(ask_of(2), now);
    const HostAction action = start();
    host.flow_ended(action.session, {Code::kInternal, "wanted"}, now);
  }
  const SessionAnswer answer = host.ask(ask_of(1), now);
  EXPECT_EQ(answer.kind, Kind::kRefuse);
  EXPECT_EQ(answer.status.code(), Code::kUnavailable);
  EXPECT_NE(answer.status.message().find("wanted; this version goes over another transport"),
            std::string::npos)
      << answer.status.message();
  EXPECT_FALSE(host.status());
  host.offer(offer_of(2), now);
  EXPECT_TRUE(host.status());
  EXPECT_EQ(host.ask(ask_of(1, 2), now).kind, Kind::kWait);
}

TEST_F(SessionHostTest, ANewOfferEndsTheSessionOfTheOldOne) {
  host.offer(offer_of(1), now);
  (void)host.ask(ask_of(1), now);
  (void)host.ask(ask_of(2), now);
  const HostAction first = start();
  host.offer(offer_of(2), now);
  EXPECT_EQ(only_action().kind, HostAction::Kind::kAbort);
  EXPECT_EQ(host.ask(ask_of(1, 1), now).status.code(), Code::kStale);
  (void)host.ask(ask_of(1, 2), now);
  (void)host.ask(ask_of(2, 2), now);
  EXPECT_TRUE(host.take_actions().empty()) << "the GPU is not free yet";
  host.flow_ended(first.session, {Code::kCancelled, "aborted"}, now);
  EXPECT_EQ(start().size, 3);
  EXPECT_TRUE(host.status());
}

TEST_F(SessionHostTest, WhatDoesNotFitIsRefusedWithTheReason) {
  host.offer(offer_of(1), now);
  const auto refusal = [&](const SessionAsk& ask) {
    const SessionAnswer answer = host.ask(ask, now);
    EXPECT_EQ(answer.kind, Kind::kRefuse);
    return answer.status;
  };
  SessionAsk ask = ask_of(1);
  ask.generation = 2;
  EXPECT_EQ(refusal(ask).code(), Code::kStale);
  ask = ask_of(1);
  ask.plan = 98;
  EXPECT_EQ(refusal(ask).code(), Code::kMismatch);
  ask = ask_of(1);
  ask.nccl_version = 21800;
  EXPECT_NE(refusal(ask).message().find("expected NCCL 22809"), std::string::npos);
  ask = ask_of(1);
  ask.device = "GPU-source";
  EXPECT_NE(refusal(ask).message().find("cuda_ipc"), std::string::npos);
  (void)host.ask(ask_of(1), now);
  ask = ask_of(2);
  ask.device = ask_of(1).device;
  EXPECT_EQ(refusal(ask).code(), Code::kExists);
  ask = ask_of(1);
  ask.incarnation = 2;
  EXPECT_EQ(host.ask(ask, now).kind, Kind::kWait);
  EXPECT_EQ(refusal(ask_of(1)).code(), Code::kStale);
}

TEST_F(SessionHostTest, AMemberThatBeginsAnotherLifeEndsTheSession) {
  host.offer(offer_of(1), now);
  (void)host.ask(ask_of(1), now);
  (void)host.ask(ask_of(2), now);
  (void)start();
  SessionAsk anew = ask_of(2);
  anew.incarnation = 2;
  EXPECT_EQ(host.ask(anew, now).kind, Kind::kWait);
  EXPECT_EQ(only_action().kind, HostAction::Kind::kAbort);
}

TEST_F(SessionHostTest, AnOldAskOfWhoHasEndedBeginsNothing) {
  host.offer(offer_of(1), now);
  (void)host.ask(ask_of(1), now);
  (void)host.ask(ask_of(2), now);
  host.flow_ended(start().session, {}, now);
  EXPECT_EQ(host.ask(ask_of(1), now).kind, Kind::kWait);
  pass(options.window * 2);
  EXPECT_TRUE(host.take_actions().empty());
}

TEST_F(SessionHostTest, NoIdIsAFailureLikeAnother) {
  host.offer(offer_of(1), now);
  (void)host.ask(ask_of(1), now);
  (void)host.ask(ask_of(2), now);
  const HostAction make = only_action();
  host.id_made(make.session, Status(Code::kInternal, "no id"), now);
  (void)host.ask(ask_of(1), now);
  (void)host.ask(ask_of(2), now);
  EXPECT_EQ(start().size, 3);
}

TEST(SessionGuestTest, GivesUpOnASourceThatIsSilentOrNeverReady) {
  const SessionOptions options;
  auto now = Clock::now();
  SessionGuest silent(options, ask_of(1), now);
  EXPECT_TRUE(silent.next_ask(now));
  EXPECT_FALSE(silent.next_ask(now));
  now += options.give_up + std::chrono::seconds(1);
  EXPECT_FALSE(silent.next_ask(now));
  EXPECT_EQ(silent.phase(), Phase::kFailed);
  EXPECT_EQ(silent.status().code(), Code::kUnavailable);

  SessionGuest waiting(options, ask_of(1), now);
  const auto end = now + options.wait_most + std::chrono::seconds(1);
  while (now < end) {
    now += std::chrono::seconds(1);
    if (waiting.next_ask(now)) waiting.answered({}, now);
  }
  EXPECT_EQ(waiting.phase(), Phase::kFailed);
  EXPECT_NE(waiting.status().message().find("wait"), std::string::npos);
}

TEST(SessionGuestTest, AnAnswerThatMakesNoSenseIsRefused) {
  const auto now = Clock::now();
  for (const auto& [rank, size, first] :
       {std::tuple{0, 2, 0u}, std::tuple{2, 2, 0u}, std::tuple{1, 2, 1u}}) {
    SessionGuest guest({}, ask_of(1), now);
    guest.answered({Kind::kGo, {}, 1, 0, false, 0, {}, rank, size, first}, now);
    EXPECT_EQ(guest.phase(), Phase::kFailed);
    EXPECT_EQ(guest.status().code(), Code::kInvalid);
  }
}

}  // namespace
}  // namespace weightcast::transport
