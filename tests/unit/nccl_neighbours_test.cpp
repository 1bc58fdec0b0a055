// Engines of one place: which of them is in the communicator, and how the others get its buckets.
#include <algorithm>
#include <optional>

#include "staging/object_name.hpp"
#include "support/shm_fixture.hpp"
#include "transport/nccl/led_ring.hpp"
#include "transport/nccl/neighbour_flow.hpp"
#include "unit/nccl_fixture.hpp"
#include "unit/nccl_session_fixture.hpp"

namespace weightcast::transport {
namespace {

using Kind = SessionAnswer::Kind;
using HostAction = SessionHost::Action;

class PlacesTest : public ::testing::Test {
 protected:
  SessionAsk ask_at(int engine, const std::string& place, std::uint64_t number = 1) {
    SessionAsk ask = ask_of(engine, number);
    ask.device = "GPU-of-" + place;
    ask.place = place;
    ask.board = "board" + std::to_string(engine);
    ask.may_keep = true;
    ask.incarnation = 100 + static_cast<std::uint64_t>(engine);
    return ask;
  }
  HostAction start() {
    HostAction start{};
    for (const HostAction& action : host.take_actions()) {
      if (action.kind == HostAction::Kind::kStart) start = action;
      if (action.kind == HostAction::Kind::kDrop) dropped.push_back(action.session);
      if (action.kind != HostAction::Kind::kMakeId) continue;
      host.id_made(action.session, id_of(action.session), now);
      for (const HostAction& next : host.take_actions()) start = next;
    }
    EXPECT_EQ(start.kind, HostAction::Kind::kStart);
    return start;
  }
  HostAction gather(const std::vector<SessionAsk>& asks) {
    SessionOffer offer = offer_of(asks.front().version.number);
    offer.expected = static_cast<std::uint32_t>(asks.size());
    host.offer(offer, now);
    for (const SessionAsk& ask : asks) host.ask(ask, now);
    return start();
  }

  Clock::time_point now = Clock::now();
  SessionOptions options{.keep = 2};
  SessionHost host{options};
  std::vector<std::uint64_t> dropped;
};

TEST_F(PlacesTest, OneOfEachPlaceIsInTheCommunicatorAndTheOthersAreToldWhose) {
  const std::vector<SessionAsk> asks{ask_at(3, "x"), ask_at(1, "x"), ask_at(2, "y"),
                                     ask_at(4, "x")};
  const HostAction action = gather(asks);
  EXPECT_EQ(action.size, 3);
  EXPECT_EQ(action.neighbours, 2u);
  EXPECT_EQ(action.receivers, (std::vector<std::string>{"engine1", "engine2"}));

  const SessionAnswer leader = host.ask(asks[1], now);
  EXPECT_EQ(leader.kind, Kind::kGo);
  EXPECT_EQ(leader.rank, 1);
  EXPECT_EQ(leader.neighbours, 2u);
  EXPECT_EQ(leader.board, "");
  const SessionAnswer alone = host.ask(asks[2], now);
  EXPECT_EQ(alone.rank, 2);
  EXPECT_EQ(alone.neighbours, 0u);
  for (const std::size_t i : {0u, 3u}) {
    const SessionAnswer neighbour = host.ask(asks[i], now);
    EXPECT_EQ(neighbour.kind, Kind::kGo);
    EXPECT_EQ(neighbour.session, leader.session);
    EXPECT_EQ(neighbour.board, "board1");
    EXPECT_EQ(neighbour.leader_ask, 101u);
    EXPECT_EQ(neighbour.seat, i == 0 ? 0u : 1u);
    EXPECT_EQ(neighbour.neighbours, 0u);
  }
}

TEST_F(PlacesTest, WhatANeighbourLacksIsSentToo) {
  SessionAsk neighbour = ask_at(2, "x");
  neighbour.have = 3;
  SessionAsk leader = ask_at(1, "x");
  leader.have = 9;
  EXPECT_EQ(gather({neighbour, leader}).first, 3u);
}

TEST_F(PlacesTest, AGpuIsTakenTwiceOnlyByThoseThatShareARank) {
  host.offer(offer_of(1), now);
  EXPECT_EQ(host.ask(ask_at(1, "x"), now).kind, Kind::kWait);
  SessionAsk unable = ask_at(2, "x");
  unable.place.clear();
  EXPECT_EQ(host.ask(unable, now).status.code(), Code::kExists);
  SessionAsk hidden = ask_at(3, "x");
  hidden.board.clear();
  EXPECT_EQ(host.ask(hidden, now).status.code(), Code::kExists);
}

TEST_F(PlacesTest, ANeighboursFailureCostsTheSessionNothing) {
  const std::vector<SessionAsk> asks{ask_at(1, "x"), ask_at(2, "x")};
  const HostAction first = gather(asks);
  host.ask(asks[0], now);
  host.ask(asks[1], now);
  SessionAsk failed = asks[1];
  failed.failed = first.session;
  failed.have = 2;

  EXPECT_EQ(host.ask(failed, now).kind, Kind::kWait);
  EXPECT_TRUE(host.take_actions().empty()) << "nothing is aborted";
  host.flow_ended(first.session, {}, now);
  now += options.window + options.silent;
  host.ask(failed, now);
  now += options.window;
  host.ask(failed, now);

  const HostAction second = start();
  EXPECT_EQ(second.receivers, std::vector<std::string>{"engine2"});
  EXPECT_EQ(second.first, 2u);
}

TEST_F(PlacesTest, ALeadersFailureEndsTheSessionForAllAndAnotherLeads) {
  const std::vector<SessionAsk> asks{ask_at(1, "x"), ask_at(2, "x"), ask_at(3, "x")};
  const HostAction first = gather(asks);
  for (const SessionAsk& ask : asks) host.ask(ask, now);
  host.flow_failing(first.session);
  std::vector<SessionAsk> rest{asks[1], asks[2]};
  for (SessionAsk& ask : rest) {
    ask.failed = first.session;
    EXPECT_EQ(host.ask(ask, now).kind, Kind::kWait);
  }
  host.flow_ended(first.session, {Code::kUnavailable, "gone"}, now);
  now += options.silent;
  for (const SessionAsk& ask : rest) host.ask(ask, now);
  const HostAction second = start();
  EXPECT_EQ(second.receivers, std::vector<std::string>{"engine2"});
  EXPECT_EQ(second.neighbours, 1u);
}

TEST_F(PlacesTest, AnAskFromBeforeTheEndTellsNothingAndOneLongAfterIsBelieved) {
  const std::vector<SessionAsk> asks{ask_at(1, "x"), ask_at(2, "x")};
  const HostAction first = gather(asks);
  host.ask(asks[0], now);
  host.flow_ended(first.session, {}, now);
  // The neighbour never heard that it was to go.
  EXPECT_EQ(host.ask(asks[1], now + options.silent / 2).kind, Kind::kWait);
  EXPECT_TRUE(host.is_idle());
  now += options.silent * 2;
  host.ask(asks[1], now);
  EXPECT_FALSE(host.is_idle());
  now += options.window * 2;
  host.ask(asks[1], now);
  EXPECT_EQ(start().receivers, std::vector<std::string>{"engine2"});
  // Leaders were there to the end.
  host.ask(asks[0], now);
  EXPECT_TRUE(host.take_actions().empty());
}

TEST_F(PlacesTest, CommunicatorsStayWhenNeighboursComeAndGo) {
  const HostAction first = gather({ask_at(2, "x"), ask_at(5, "y")});
  EXPECT_TRUE(first.keeps);
  host.flow_ended(first.session, {}, now);
  for (std::uint64_t number = 2; number < 6; ++number) {
    SessionAsk leader = ask_at(2, "x", number);
    SessionAsk other = ask_at(5, "y", number);
    leader.kept = other.kept = first.session;
    std::vector<SessionAsk> asks{ask_at(1, "x", number), leader, other};
    if (number % 2 == 0) asks.push_back(ask_at(3, "x", number));
    const HostAction next = gather(asks);
    EXPECT_EQ(next.kept, first.session);
    EXPECT_EQ(next.receivers, first.receivers);
    EXPECT_EQ(next.neighbours, number % 2 == 0 ? 2u : 1u);
    host.flow_ended(next.session, {}, now);
  }
}

TEST_F(PlacesTest, WhoBecomesANeighbourGivesUpItsOwnCommunicator) {
  const HostAction one = gather({ask_at(1, "x", 1)});
  host.flow_ended(one.session, {}, now);
  const HostAction other = gather({ask_at(2, "x", 2)});
  host.flow_ended(other.session, {}, now);
  SessionAsk first = ask_at(1, "x", 3);
  first.kept = one.session;
  SessionAsk second = ask_at(2, "x", 3);
  second.kept = other.session;
  const HostAction both = gather({second, first});
  EXPECT_EQ(both.kept, one.session);
  EXPECT_EQ(both.neighbours, 1u);
  EXPECT_EQ(dropped, std::vector{other.session});
  EXPECT_EQ(host.kept(), std::vector{one.session});
}

TEST_F(PlacesTest, EachForItselfANeighbourKeepsItsOwnForWhenItComesAlone) {
  options.is_p2p = true;
  host = SessionHost(options);
  const HostAction one = gather({ask_at(1, "x", 1)});
  host.flow_ended(one.session, {}, now);
  const HostAction other = gather({ask_at(2, "x", 1)});
  host.flow_ended(other.session, {}, now);
  const std::uint64_t last = 3 * options.keep_versions;
  for (std::uint64_t number = 2; number < last; ++number) {
    host.offer(offer_of(number), now);
    // The source is busy with another one while both come.
    const HostAction busy = (host.ask(ask_at(3, "y", number), now), start());
    SessionAsk first = ask_at(1, "x", number);
    first.kept = one.session;
    SessionAsk second = ask_at(2, "x", number);
    second.kept = other.session;
    host.ask(second, now);
    host.ask(first, now);
    host.flow_ended(busy.session, {Code::kUnavailable, "gone"}, now);
    const HostAction both = start();
    EXPECT_EQ(both.neighbours, 1u);
    EXPECT_EQ(both.kept, one.session);
    const SessionAnswer neighbour = host.ask(second, now);
    EXPECT_EQ(neighbour.board, "board1");
    EXPECT_TRUE(neighbour.keeps);
    host.flow_ended(both.session, {}, now);
  }
  EXPECT_TRUE(dropped.empty());
  SessionAsk alone = ask_at(2, "x", last);
  alone.kept = other.session;
  EXPECT_EQ(gather({alone}).kept, other.session);
}

TEST_F(PlacesTest, EachForItselfThoseWhoWantTheSameAtTheSameTimeShareASession) {
  options.is_p2p = true;
  host = SessionHost(options);
  host.offer(offer_of(1), now);
  host.ask(ask_at(1, "x"), now);
  const HostAction first = start();
  EXPECT_EQ(first.receivers, std::vector<std::string>{"engine1"});
  for (const int engine : {4, 3, 2}) host.ask(ask_at(engine, engine == 3 ? "y" : "x"), now);
  host.flow_ended(first.session, {}, now);
  const HostAction second = start();
  EXPECT_EQ(second.receivers, std::vector<std::string>{"engine2"});
  EXPECT_EQ(second.neighbours, 1u);
  host.flow_ended(second.session, {}, now);
  const HostAction third = start();
  EXPECT_EQ(third.receivers, std::vector<std::string>{"engine3"});
  EXPECT_EQ(third.neighbours, 0u);
}

/// A leader on device 1, its neighbours on devices of their own.
class RingTest : public NcclParty {
 protected:
  struct Neighbour {
    int device = 0;
    std::unique_ptr<NcclGpu> gpu;
    std::byte* image = nullptr;
    std::unique_ptr<NcclReceiver> end;
    std::unique_ptr<NeighbourFlow> flow;
    bool is_stopped = false;
  };
  static constexpr auto kPatience = std::chrono::milliseconds(500);

  void open_ring(int neighbours) {
    options.registers = false;
    options.buckets = 2;
    options.silence = std::chrono::seconds(3);
    cuda = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2 + neighbours});
    nccl = std::make_shared<driver::FakeNccl>(cuda);
    members.resize(2);
    for (int i = 0; i < 2; ++i) {
      Member& member = members[static_cast<std::size_t>(i)];
      member.device = i;
      member.is_sender = i == 0;
      (i == 0 ? member.slot : member.image) = static_cast<std::byte*>(
          i == 0 ? *cuda->allocate_host(kPayloadBytes) : *cuda->allocate(i, kPayloadBytes));
      auto opened = NcclGpu::open(nccl, cuda, i, options);
      ASSERT_TRUE(opened) << opened.status().to_string();
      member.gpu = std::move(*opened);
    }
    auto made = LedRing::make(staging::owner_prefix({job, "policy", {5, 6}, 0, 1}), kPatience);
    ASSERT_TRUE(made) << made.status().to_string();
    led = std::move(*made);
    ASSERT_TRUE(led->show(members[1].gpu->ring()));
    for (int i = 0; i < neighbours; ++i) {
      Neighbour one;
      one.device = 2 + i;
      one.image = static_cast<std::byte*>(*cuda->allocate(one.device, kPayloadBytes));
      std::fill_n(one.image, kPayloadBytes, std::byte{0xee});
      auto opened = NcclGpu::open(nccl, cuda, one.device, options);
      ASSERT_TRUE(opened);
      one.gpu = std::move(*opened);
      all.push_back(std::move(one));
    }
  }
  void TearDown() override {
    cuda->run_all();
    for (Neighbour& one : all) {
      one.flow.reset();
      one.gpu.reset();
      cuda->free(one.device, one.image);
    }
    led.reset();
    NcclParty::TearDown();
    EXPECT_EQ(test::shm_objects("." + job + "."), std::vector<std::string>{});
  }

  void begin_ring(std::uint64_t session, std::uint32_t first = 0) {
    const staging::BoardFlow flow{10, session, first, static_cast<std::uint32_t>(all.size())};
    led->begin(flow);
    // The leader's is another flow: it shows what comes and waits for its neighbours.
    Member& leader = members[1];
    leader.is_dead = true;
    begin(first);
    leader.is_dead = false;
    leader.done = first;
    first_ = first;
    std::vector<NcclDestination> to(kBuckets);
    for (std::uint32_t b = 0; b < kBuckets; ++b) {
      to[b] = [this, b, &leader](std::span<const std::byte> from, driver::Stream stream) {
        led->came(b);
        const driver::CopyItem item{leader.image + b * kBucketBytes, from.data(), from.size()};
        return cuda->copy(leader.device, {&item, 1}, stream);
      };
    }
    leader.end = std::make_unique<NcclReceiver>(
        std::move(to), [](std::uint32_t) {},
        [this](std::uint32_t bucket, Clock::time_point at) { return led->is_let_go(bucket, at); });
    leader.flow = std::make_unique<BucketFlow>(*leader.gpu, std::vector<std::string>{"all"},
                                               steps_from(first), *leader.end, now);
    for (std::size_t i = 0; i < all.size(); ++i) {
      Neighbour& one = all[i];
      std::vector<NcclDestination> places(kBuckets);
      for (std::uint32_t b = 0; b < kBuckets; ++b) {
        places[b] = [this, b, &one](std::span<const std::byte> from, driver::Stream stream) {
          const driver::CopyItem item{one.image + b * kBucketBytes, from.data(), from.size()};
          return cuda->copy(one.device, {&item, 1}, stream);
        };
      }
      one.end = std::make_unique<NcclReceiver>(std::move(places), [](std::uint32_t) {});
      one.flow = std::make_unique<NeighbourFlow>(*one.gpu, led->board(), flow,
                                                 static_cast<std::uint32_t>(i), steps_from(first),
                                                 *one.end, now);
    }
  }
  static std::vector<FlowStep> steps_from(std::uint32_t first) {
    std::vector<FlowStep> steps;
    for (std::uint32_t b = first; b < kBuckets; ++b) {
      steps.push_back({FlowStep::Kind::kBroadcastTo, 0, 0, b, bytes_of(b)});
    }
    return steps;
  }
  bool turn_until(const std::function<bool()>& condition) {
    return until([&] {
      for (Neighbour& one : all) {
        if (!one.is_stopped && one.flow) one.flow->poll(now);
      }
      return condition();
    });
  }
  bool neighbours_are(NeighbourFlow::State state) {
    return std::all_of(all.begin(), all.end(),
                       [&](Neighbour& one) { return one.flow->poll(now) == state; });
  }
  /// Of the first `buckets` buckets.
  void expect_whole(const Neighbour& one, std::size_t buckets = kBuckets) {
    std::uint64_t wrong = 0;
    const std::uint64_t bytes = std::min(kPayloadBytes, buckets * kBucketBytes);
    for (std::uint64_t i = 0; i < bytes; ++i) wrong += one.image[i] == pattern(i, seed) ? 0 : 1;
    EXPECT_EQ(wrong, 0u) << "device " << one.device;
  }
  void join_all(std::uint64_t generation) {
    ASSERT_TRUE(join(generation));
    ASSERT_TRUE(until([&] { return all_ready(); }));
  }

  const std::string job = test::unique_job();
  std::unique_ptr<LedRing> led;
  std::vector<Neighbour> all;
};

TEST_F(RingTest, NeighboursGetEveryBucketAndRanksAreTwo) {
  open_ring(3);
  join_all(1);
  for (std::uint64_t version = 1; version < 4; ++version) {
    write_slots(version);
    begin_ring(version);
    ASSERT_TRUE(turn_until([&] {
      return all_are(BucketFlow::State::kDone) && neighbours_are(NeighbourFlow::State::kDone);
    }));
    led->end();
    expect_images();
    for (const Neighbour& one : all) expect_whole(one);
  }
  EXPECT_EQ(nccl->calls("init_rank"), 2u);
}

TEST_F(RingTest, TheLeaderGoesNoFurtherThanItsRingBeforeASlowNeighbour) {
  open_ring(2);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  all[1].is_stopped = true;
  ASSERT_TRUE(turn_until([&] { return all[0].flow->done() == 2; }));
  const auto until = now + kPatience / 2;
  ASSERT_TRUE(turn_until([&] { return now >= until; }));
  EXPECT_EQ(all[0].flow->done(), 2u) << "its ring has two buckets";
  EXPECT_EQ(members[1].flow->done(), 0u);
  all[1].is_stopped = false;
  ASSERT_TRUE(turn_until([&] { return neighbours_are(NeighbourFlow::State::kDone); }));
  for (const Neighbour& one : all) expect_whole(one);
}

TEST_F(RingTest, OneThatIsStoppedIsPutOutAndFindsThatWhenItGoesOn) {
  open_ring(2);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  ASSERT_TRUE(turn_until([&] { return all[1].flow->done() == 1; }));
  all[1].is_stopped = true;
  ASSERT_TRUE(turn_until([&] { return all_are(BucketFlow::State::kDone); }));
  EXPECT_EQ(all[0].flow->poll(now), NeighbourFlow::State::kDone);
  expect_images();
  expect_whole(all[0]);

  all[1].is_stopped = false;
  ASSERT_TRUE(turn_until([&] { return all[1].flow->poll(now) != NeighbourFlow::State::kRunning; }));
  EXPECT_EQ(all[1].flow->poll(now), NeighbourFlow::State::kFailed);
  EXPECT_EQ(all[1].flow->status().code(), Code::kUnavailable);
  EXPECT_FALSE(all[1].flow->is_cut_off());
  expect_whole(all[1], all[1].flow->done());
}

TEST_F(RingTest, OneThatIsSlowDoesNotSaveOneThatIsStopped) {
  open_ring(2);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  // One is stopped; the other moves now and then, just before the leader's patience ends.
  all[0].is_stopped = all[1].is_stopped = true;
  const auto since = now;
  auto next = now;
  ASSERT_TRUE(turn_until([&] {
    if (now >= next) {
      all[0].flow->poll(now);
      next = now + kPatience * 9 / 20;  // at the second it queues, at the third it takes
    }
    return members[1].flow->done() >= 1;
  }));
  EXPECT_LT(now - since, kPatience * 3 / 2);
  EXPECT_NE(members[1].flow->poll(now), BucketFlow::State::kFailed);
  EXPECT_EQ(all[0].flow->poll(now), NeighbourFlow::State::kRunning);
  // Of the other one nothing was heard at all.
  EXPECT_EQ(all[1].flow->poll(now), NeighbourFlow::State::kFailed);
  for (Member& member : members) member.flow.reset();
}

TEST_F(RingTest, ACopyThatComesTooLateCountsForNothing) {
  open_ring(1);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  // Its copies are queued, and run when the leader has written over what they read.
  cuda->hold_stream(all[0].device, all[0].gpu->copy());
  ASSERT_TRUE(turn_until([&] { return all_are(BucketFlow::State::kDone); }));
  cuda->resume_stream(all[0].device, all[0].gpu->copy());
  ASSERT_TRUE(turn_until([&] { return all[0].flow->poll(now) != NeighbourFlow::State::kRunning; }));
  EXPECT_EQ(all[0].flow->poll(now), NeighbourFlow::State::kFailed);
  EXPECT_EQ(all[0].flow->done(), 0u);
  cuda->run_all();
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < kBucketBytes; ++i) {
    wrong += all[0].image[i] == pattern(i, seed) ? 0 : 1;
  }
  EXPECT_GT(wrong, 0u) << "the test does not show what it is about";
}

TEST_F(RingTest, WhereTheLeaderGivesUpTheNextSessionGoesOn) {
  open_ring(2);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  ASSERT_TRUE(turn_until([&] {
    return std::all_of(all.begin(), all.end(), [](const auto& one) { return one.flow->done() >= 2; });
  }));
  for (Member& member : members) {
    member.flow->cancel({Code::kCancelled, "wanted"}, now);
    member.flow.reset();
  }
  led->end();
  ASSERT_TRUE(turn_until([&] { return neighbours_are(NeighbourFlow::State::kFailed); }));
  std::uint32_t first = kBuckets;
  for (const Neighbour& one : all) {
    EXPECT_FALSE(one.flow->is_cut_off());
    expect_whole(one, one.flow->done());
    first = std::min(first, static_cast<std::uint32_t>(one.flow->done()));
  }
  first = std::min(first, static_cast<std::uint32_t>(members[1].done));
  ASSERT_TRUE(until([&] { return members[0].gpu->status() && members[1].gpu->status(); }));
  join_all(2);
  begin_ring(2, first);
  ASSERT_TRUE(turn_until([&] {
    return all_are(BucketFlow::State::kDone) && neighbours_are(NeighbourFlow::State::kDone);
  }));
  expect_images();
  for (const Neighbour& one : all) expect_whole(one);
}

TEST_F(RingTest, TheLeadersEndIsSeenAtOnce) {
  open_ring(1);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  ASSERT_TRUE(turn_until([&] { return all[0].flow->done() >= 1; }));
  const auto before = now;
  for (Member& member : members) member.flow.reset();
  led.reset();
  EXPECT_EQ(all[0].flow->poll(now), NeighbourFlow::State::kFailed);
  EXPECT_EQ(all[0].flow->status().message(), "the leader is gone");
  EXPECT_EQ(now, before);
}

TEST_F(RingTest, AStoppedLeaderIsWaitedForNoLongerThanForASilentCommunicator) {
  open_ring(1);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  ASSERT_TRUE(turn_until([&] { return all[0].flow->done() >= 1; }));
  const auto since = now;
  while (all[0].flow->poll(now) == NeighbourFlow::State::kRunning) {
    now += std::chrono::milliseconds(10);
    cuda->step();
    ASSERT_LT(now - since, std::chrono::minutes(1));
  }
  EXPECT_EQ(all[0].flow->status().code(), Code::kDeadline);
  EXPECT_LE(now - since, options.silence + std::chrono::milliseconds(100));
  for (Member& member : members) member.flow.reset();
}

TEST_F(RingTest, MemoryThatCannotBeReadFromHereIsSaid) {
  open_ring(1);
  join_all(1);
  write_slots(1);
  cuda->fail("open_memory", Status(Code::kUnavailable, "no access to that device"));
  begin_ring(1);
  ASSERT_TRUE(turn_until([&] { return all[0].flow->poll(now) != NeighbourFlow::State::kRunning; }));
  EXPECT_TRUE(all[0].flow->is_cut_off());
  EXPECT_EQ(all[0].flow->status().message(), "no access to that device");
  const auto since = now;
  ASSERT_TRUE(turn_until([&] { return all_are(BucketFlow::State::kDone); }));
  EXPECT_LT(now - since, kPatience) << "the leader is told";
  expect_images();
}

TEST_F(RingTest, WhoGivesUpIsWaitedForNoLonger) {
  open_ring(2);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  ASSERT_TRUE(turn_until([&] { return all[1].flow->done() >= 1; }));
  all[1].flow.reset();
  const auto since = now;
  ASSERT_TRUE(turn_until([&] { return all_are(BucketFlow::State::kDone); }));
  EXPECT_LT(now - since, kPatience);
  EXPECT_EQ(all[0].flow->poll(now), NeighbourFlow::State::kDone);
  expect_images();
  expect_whole(all[0]);
}

TEST_F(RingTest, ARingThatMakesNoSenseIsNotRead) {
  open_ring(1);
  join_all(1);
  write_slots(1);
  begin_ring(1);
  const staging::BoardFlow other{10, 1, 2, 1};  // that began elsewhere
  NeighbourFlow astray(*all[0].gpu, led->board(), other, 0, steps_from(2), *all[0].end, now);
  EXPECT_EQ(astray.poll(now), NeighbourFlow::State::kFailed);
  EXPECT_EQ(astray.status().code(), Code::kMismatch);
  NeighbourFlow nowhere(*all[0].gpu, "weightcast.nobody", other, 0, steps_from(2), *all[0].end, now);
  EXPECT_EQ(nowhere.poll(now), NeighbourFlow::State::kFailed);
  EXPECT_TRUE(nowhere.is_cut_off());
}

}  // namespace
}  // namespace weightcast::transport
