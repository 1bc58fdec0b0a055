// Communicators that are kept from one session to the next.
#include <algorithm>

#include "unit/nccl_fixture.hpp"
#include "unit/nccl_session_fixture.hpp"

namespace weightcast::transport {
namespace {

using Kind = SessionAnswer::Kind;
using HostAction = SessionHost::Action;

class KeptTest : public ::testing::Test {
 protected:
  /// Version `number` for engines that say they still have the communicator of `kept`.
  /// @return kStart
  HostAction serve(std::uint64_t number, std::vector<int> engines, std::uint64_t kept) {
    for (const int engine : engines) kept_by[engine] = kept;
    return serve(number, std::move(engines));
  }
  HostAction serve(std::uint64_t number, std::vector<int> engines) {
    SessionOffer offer = offer_of(number);
    offer.expected = static_cast<std::uint32_t>(engines.size());
    host.offer(offer, now);
    SessionAnswer last;
    for (const int engine : engines) last = ask(engine, number);
    HostAction start{};
    for (const HostAction& action : take()) {
      if (action.kind == HostAction::Kind::kStart) start = action;
      if (action.kind != HostAction::Kind::kMakeId) continue;
      host.id_made(action.session, id_of(action.session), now);
      for (const HostAction& next : take()) start = next;
    }
    EXPECT_EQ(start.kind, HostAction::Kind::kStart);
    went_at_once = last.kind == Kind::kGo;
    for (const int engine : engines) {
      const SessionAnswer go = ask(engine, number);
      EXPECT_EQ(go.kind, Kind::kGo);
      EXPECT_EQ(go.session, start.session);
      EXPECT_EQ(go.kept, start.kept);
      EXPECT_EQ(go.keeps, start.keeps);
      EXPECT_EQ(start.receivers.at(static_cast<std::size_t>(go.rank) - 1), ask_of(engine).name);
    }
    return start;
  }
  SessionAnswer ask(int engine, std::uint64_t number) {
    SessionAsk one = ask_of(engine, number);
    one.may_keep = engine != no_room;
    one.kept = kept_by[engine];
    return host.ask(one, now);
  }
  void end(const HostAction& start, Status status = {}) {
    host.flow_ended(start.session, status, now);
  }
  /// But for kDrop, which are counted.
  std::vector<HostAction> take() {
    auto actions = host.take_actions();
    std::erase_if(actions, [&](const HostAction& action) {
      if (action.kind == HostAction::Kind::kDrop) dropped.push_back(action.session);
      return action.kind == HostAction::Kind::kDrop;
    });
    return actions;
  }

  Clock::time_point now = Clock::now();
  SessionOptions options{.keep = 2};
  SessionHost host{options};
  std::map<int, std::uint64_t> kept_by;
  int no_room = 0;
  bool went_at_once = false;
  std::vector<std::uint64_t> dropped;
};

TEST_F(KeptTest, TheSameEnginesGoOnInTheirCommunicatorWhateverTheirOrder) {
  const HostAction first = serve(1, {1, 2}, 0);
  EXPECT_EQ(first.kept, 0u);
  EXPECT_TRUE(first.keeps);
  EXPECT_FALSE(went_at_once) << "the id is not made yet";
  end(first);
  std::uint64_t last = first.session;
  for (std::uint64_t version = 2; version < 6; ++version) {
    const HostAction next = serve(version, version % 2 == 0 ? std::vector{2, 1} : std::vector{1, 2},
                                  first.session);
    EXPECT_EQ(next.kept, first.session);
    EXPECT_TRUE(next.keeps);
    EXPECT_GT(next.session, last);
    EXPECT_EQ(next.receivers, first.receivers) << "ranks of a communicator stay";
    EXPECT_TRUE(went_at_once) << "the last one who is waited for need not ask again";
    last = next.session;
    end(next);
  }
  EXPECT_TRUE(dropped.empty());
}

TEST_F(KeptTest, OthersGetACommunicatorOfTheirOwnAndTheOldOneIsDropped) {
  const HostAction first = serve(1, {1, 2}, 0);
  end(first);
  kept_by = {{1, first.session}, {2, first.session}};
  const HostAction more = serve(2, {1, 2, 3});
  EXPECT_EQ(more.kept, 0u);
  EXPECT_EQ(dropped, std::vector{first.session});
  end(more);
  kept_by = {{1, more.session}, {2, more.session}, {3, more.session}};
  const HostAction fewer = serve(3, {3, 1});
  EXPECT_EQ(fewer.kept, 0u);
  EXPECT_EQ(dropped, (std::vector{first.session, more.session}));
}

TEST_F(KeptTest, WhoHasLostItsOwnIsBelieved) {
  const HostAction first = serve(1, {1, 2}, 0);
  end(first);
  kept_by = {{1, first.session}, {2, 0}};
  EXPECT_EQ(serve(2, {1, 2}).kept, 0u);
  EXPECT_EQ(dropped, std::vector{first.session});
}

TEST_F(KeptTest, WhatNobodyHereKnowsIsNotUsed) {
  const HostAction first = serve(1, {1}, 0);
  end(first);
  EXPECT_EQ(serve(2, {1}, first.session + 40).kept, 0u) << "of a source before this one";
}

TEST_F(KeptTest, ASessionThatFailedTakesItsCommunicatorWithIt) {
  const HostAction first = serve(1, {1}, 0);
  end(first, {Code::kUnavailable, "gone"});
  EXPECT_TRUE(host.kept().empty());
  const HostAction second = serve(2, {1}, first.session);
  EXPECT_EQ(second.kept, 0u);
  end(second);
  const HostAction third = serve(3, {1}, second.session);
  EXPECT_EQ(third.kept, second.session);
  end(third, {Code::kUnavailable, "gone"});
  EXPECT_TRUE(host.kept().empty());
  EXPECT_TRUE(dropped.empty()) << "its flow's end has aborted it";
}

TEST_F(KeptTest, TheSourceHearsThatOneHasEnded) {
  const HostAction first = serve(1, {1}, 0);
  end(first);
  EXPECT_EQ(host.kept(), std::vector{first.session});
  host.kept_lost(first.session);
  EXPECT_EQ(serve(2, {1}, first.session).kept, 0u);
  EXPECT_TRUE(dropped.empty());
}

TEST_F(KeptTest, WithoutRoomAtOneOfThemAllLeave) {
  no_room = 2;
  const HostAction first = serve(1, {1, 2}, 0);
  EXPECT_FALSE(first.keeps);
  end(first);
  EXPECT_TRUE(host.kept().empty());
}

TEST_F(KeptTest, OneAfterTheOtherHasItsOwnAsFarAsThereIsRoom) {
  options.is_p2p = true;
  host = SessionHost(options);
  const HostAction first = serve(1, {1}, 0);
  end(first);
  const HostAction second = serve(1, {2}, 0);
  end(second);
  const HostAction third = serve(1, {3}, 0);
  EXPECT_FALSE(third.keeps) << "two are kept";
  end(third);
  EXPECT_EQ(serve(2, {2}, second.session).kept, second.session);
}

TEST_F(KeptTest, WhoDoesNotComeAnyMoreMakesRoom) {
  options.is_p2p = true;
  host = SessionHost(options);
  const HostAction first = serve(1, {1}, 0);
  end(first);
  std::uint64_t kept = 0;
  const std::uint64_t last = 1 + options.keep_versions;
  for (std::uint64_t version = 2; version < last + 3; ++version) {
    const HostAction next = serve(version, {2}, kept);
    EXPECT_EQ(dropped.size(), version <= last ? 0u : 1u) << "version " << version;
    kept = next.kept != 0 ? next.kept : next.session;
    end(next);
  }
  EXPECT_EQ(dropped, std::vector{first.session});
  EXPECT_EQ(host.kept(), std::vector{kept});
}

TEST_F(KeptTest, WhoTakesTurnsBetweenTwoVersionsKeepsItsOwn) {
  options.is_p2p = true;
  host = SessionHost(options);
  std::uint64_t kept_by_one = 0, kept_by_other = 0;
  for (std::uint64_t turn = 0; turn < 20; ++turn) {
    const HostAction one = serve(9, {1}, kept_by_one);
    kept_by_one = one.kept != 0 ? one.kept : one.session;
    end(one);
    const HostAction other = serve(8, {2}, kept_by_other);
    kept_by_other = other.kept != 0 ? other.kept : other.session;
    end(other);
  }
  EXPECT_TRUE(dropped.empty());
  EXPECT_EQ(host.kept(), (std::vector{kept_by_one, kept_by_other}));
}

class RestingTest : public NcclParty {
 protected:
  /// A version through a communicator that then rests.
  void bring() {
    ASSERT_TRUE(join(1));
    ASSERT_TRUE(until([&] { return all_ready(); }));
    send_version(1);
  }
  void send_version(std::uint64_t version) {
    write_slots(version);
    begin();
    ASSERT_TRUE(until([&] { return all_are(BucketFlow::State::kDone); }));
    expect_images();
    for (Member* member : living()) {
      EXPECT_EQ(member->gpu->resting(), 1u);
      member->flow.reset();
    }
  }
};

TEST_F(RestingTest, OneCommunicatorTakesManyVersions) {
  open(1, 2);
  bring();
  for (std::uint64_t version = 2; version < 5; ++version) send_version(version);
  EXPECT_EQ(nccl->calls("init_rank"), 3u);
  EXPECT_EQ(nccl->calls("abort"), 0u);
}

TEST_F(RestingTest, ItsEndLeavesTheBuffersInUse) {
  open(1, 2);
  bring();
  kill(2);
  ASSERT_TRUE(until([&] {
    for (Member* member : living()) {
      EXPECT_TRUE(member->gpu->status()) << "nothing was under way";
      if (member->gpu->find("all") != nullptr) return false;
    }
    return true;
  }));
  ASSERT_TRUE(join(2));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  send_version(2);
}

TEST_F(RestingTest, WhatHasEndedByItselfIsDroppedWithoutAQuarantine) {
  open(1, 1);
  bring();
  kill(1);
  ASSERT_TRUE(until([&] { return members[0].gpu->find("all") == nullptr; }));
  members[0].gpu->drop("all", {Code::kCancelled, "its members have changed"}, now);
  EXPECT_TRUE(members[0].gpu->status());
}

TEST_F(RestingTest, InUseAgainItFailsAsOneDoesThatNeverRested) {
  open(1, 2);
  bring();
  write_slots(2);
  begin();
  poll_all();
  kill(2);
  ASSERT_TRUE(until([&] { return none_running(); }));
  for (Member* member : living()) {
    EXPECT_EQ(member->flow->poll(now), BucketFlow::State::kFailed);
    EXPECT_FALSE(member->gpu->status()) << "buffers may be in use";
  }
  recover(2);
}

TEST_F(RestingTest, ClosingEndsItWithoutTheOthers) {
  open(1, 1);
  bring();
  EXPECT_TRUE(members[0].gpu->close(Clock::now() + std::chrono::minutes(1)));
  EXPECT_EQ(members[0].gpu->communicators(), 0u);
  EXPECT_TRUE(members[0].gpu->status());
  EXPECT_EQ(nccl->calls("finalize"), 0u) << "which waits for the others";
}

TEST_F(RestingTest, SettlingWaitsForThoseAloneThatAreBeingLeft) {
  open(1, 1);
  bring();
  ASSERT_TRUE(join(2, "other"));
  ASSERT_TRUE(until([&] { return all_ready("other"); }));
  for (Member& member : members) member.gpu->leave("other", now);
  for (Member& member : members) {
    EXPECT_TRUE(member.gpu->settle(Clock::now() + std::chrono::minutes(1)));
    EXPECT_EQ(member.gpu->communicators(), 1u);
    EXPECT_NE(member.gpu->find("all"), nullptr);
  }
  EXPECT_EQ(nccl->calls("abort"), 0u);
}

}  // namespace
}  // namespace weightcast::transport
