// What observers are shown of the coordinator, through all that can happen to a member.
#include <gtest/gtest.h>

#include "machine_messages.hpp"
#include "publisher/status_desk.hpp"

namespace weightcast::protocol {
namespace {

using namespace test;

class Picture : public testing::Test {
 protected:
  static constexpr Peer kA = 100;
  static constexpr Peer kB = 101;

  void open(CoordinatorConfig config = {}) {
    hall_ = std::make_unique<Hall>(std::move(config));
    hall_->join_source(0, 1);
    hall_->join_receiver("a", kA);
    hall_->join_receiver("b", kB);
    hall_->state(0, hall_->ready(1));
  }
  JobStatus look() { return hall_->coordinator().picture(hall_->now()); }
  EngineState state_of(const std::string& name) {
    for (const auto& engine : look().engines) {
      if (engine.name == name) return engine.state;
    }
    ADD_FAILURE() << name << " is not shown";
    return EngineState::kJoining;
  }
  void publish(std::uint64_t point) {
    hall_->state(0, hall_->ready(point));
    hall_->publish(point);
  }
  void say(const std::string& name, Peer peer, Phase phase, std::uint64_t serving = 0) {
    ReceiverState state;
    state.attempt = hall_->last<Prepare>(peer)->attempt;
    state.phase = phase;
    if (serving != 0) state.serving = {kRun, serving};
    state.applied_at_ns = hall_->now().time_since_epoch().count();
    hall_->state(name, peer, state);
  }

  std::unique_ptr<Hall> hall_;
};

TEST_F(Picture, ShowsARoundFromBothSides) {
  open();
  EXPECT_EQ(look().waiting_for, "the trainer's next publish point");
  EXPECT_EQ(state_of("a"), EngineState::kJoining);

  publish(3);
  hall_->pass(100ms);
  say("a", kA, Phase::kStaged);

  JobStatus status = look();
  ASSERT_TRUE(status.round);
  EXPECT_EQ(*status.round, (JobStatus::Round{3, false, 100ms, 2, 1}));
  EXPECT_EQ(status.waiting_for, "b to take in version 3");
  EXPECT_EQ(status.published, 3u);
  EXPECT_EQ(status.committed, 0u);
  EXPECT_EQ(state_of("a"), EngineState::kInRound);
  EXPECT_EQ(status.engines[0].staleness, 3u);
  EXPECT_EQ(status.engines[0].bringing, 3u);

  hall_->pass(50ms);
  say("b", kB, Phase::kStaged);
  hall_->pass(50ms);
  say("a", kA, Phase::kApplied, 3);
  status = look();
  ASSERT_TRUE(status.round);
  EXPECT_TRUE(status.round->committed);
  EXPECT_EQ(status.waiting_for, "b to switch to version 3");
  EXPECT_EQ(state_of("a"), EngineState::kCurrent);

  hall_->pass(50ms);
  say("b", kB, Phase::kApplied, 3);
  status = look();
  EXPECT_FALSE(status.round);
  EXPECT_EQ(status.committed, 3u);
  EXPECT_EQ(status.last_applied, 3u);
  EXPECT_EQ(status.commits, 1u);
  EXPECT_EQ(status.engines[0].staleness, 0u);
  EXPECT_EQ(status.engines[0].last_stage, Duration(100ms));
  EXPECT_EQ(status.engines[0].last_switch, Duration(50ms));
  EXPECT_EQ(status.engines[1].last_stage, Duration(150ms));
  EXPECT_EQ(status.engines[1].last_switch, Duration(100ms));
}

TEST_F(Picture, ShowsWhoLagsAndWhy) {
  open();
  publish(1);
  say("a", kA, Phase::kStaged);
  ReceiverState late;
  late.attempt = hall_->last<Prepare>(kB)->attempt;
  late.lagging = true;
  hall_->state("b", kB, late);

  EXPECT_EQ(state_of("b"), EngineState::kLagging);
  EXPECT_EQ(look().engines[1].trouble, "a lease is held past its deadline");
  EXPECT_EQ(look().engines[0].trouble, "");
}

TEST_F(Picture, ShowsACatchUpAndADirtyEngine) {
  open();
  publish(1);
  for (const auto& [name, peer] : {std::pair{"a", kA}, {"b", kB}}) say(name, peer, Phase::kStaged);
  for (const auto& [name, peer] : {std::pair{"a", kA}, {"b", kB}}) {
    say(name, peer, Phase::kApplied, 1);
  }

  hall_->join_receiver("c", 102);
  EXPECT_EQ(state_of("c"), EngineState::kCatchingUp);

  ReceiverState dirty;
  dirty.attempt = hall_->last<Prepare>(102)->attempt;
  dirty.phase = Phase::kStaging;
  dirty.dirty = true;
  dirty.progress = 17;
  hall_->state("c", 102, dirty);
  EXPECT_EQ(state_of("c"), EngineState::kDirty);
  EXPECT_EQ(look().engines[2].progress, 17u);
}

TEST_F(Picture, RemembersWhoIsGone) {
  open();
  hall_->state("a", kA, {});
  hall_->pass(2100ms);  // "b" never spoke
  hall_->say(kA, engine_member("a"), Bye{});
  hall_->pass(300ms);

  const JobStatus status = look();
  EXPECT_TRUE(status.engines.empty());
  EXPECT_EQ(status.engines_evicted, 1u);
  ASSERT_EQ(status.gone.size(), 2u);
  EXPECT_EQ(status.gone[0], (JobStatus::Gone{"a", "left", 300ms}));
  EXPECT_EQ(status.gone[1].name, "b");
  EXPECT_EQ(status.gone[1].why, "silent");
}

TEST_F(Picture, RemembersOnlyAsManyAsAnAnswerHas) {
  open();
  for (int i = 0; i < 40; ++i) {
    const std::string name = "short-" + std::to_string(i);
    hall_->join_receiver(name, static_cast<Peer>(200 + i));
    hall_->say(static_cast<Peer>(200 + i), engine_member(name), Bye{});
  }

  const JobStatus status = look();
  ASSERT_EQ(status.gone.size(), 16u);
  EXPECT_EQ(status.gone.front().name, "short-39");
}

TEST_F(Picture, SaysWhichRanksAreMissing) {
  CoordinatorConfig config;
  config.world_size = 8;
  Hall hall(config);
  hall.join_source(1, 8);

  const JobStatus status = hall.coordinator().picture(hall.now());

  EXPECT_EQ(status.waiting_for,
            "7 of 8 trainer ranks to join: rank-0, rank-2, rank-3, rank-4 and 1 more");
  ASSERT_EQ(status.trainers.size(), 1u);
  EXPECT_EQ(status.trainers[0].rank, 1u);
}

TEST_F(Picture, ShowsWhatMembersReport) {
  open();
  SourceState source = hall_->ready(1);
  source.report = SourceReport{.blocked = {}, .staging = "host", .transport = "shm",
                               .transport_reason = {}, .slots = 4, .slot_bytes = 100};
  hall_->state(0, source);
  ReceiverState engine;
  engine.report = ReceiverReport{.activation = "flip", .activation_reason = "why",
                                 .transport = "tcp", .transport_reason = "far",
                                 .received_bytes = 5, .leases = 2};
  hall_->state("a", kA, engine);
  engine.report.reset();
  hall_->state("a", kA, engine);  // what was said holds

  const JobStatus status = look();
  EXPECT_EQ(status.trainers[0].staging, "host");
  EXPECT_EQ(status.trainers[0].slots, 4u);
  EXPECT_EQ(status.engines[0].activation, "flip");
  EXPECT_EQ(status.engines[0].leases, 2u);
}

TEST_F(Picture, LeavesOutWhatHasNoRoomAndSaysSo) {
  Hall hall;
  for (int i = 0; i < 1030; ++i) {
    hall.join_receiver("engine-" + std::to_string(i), static_cast<Peer>(100 + i));
  }

  const JobStatus status = hall.coordinator().picture(hall.now());

  EXPECT_EQ(status.engines.size(), 1024u);
  EXPECT_EQ(status.left_out, 6u);
}

TEST_F(Picture, ALookChangesNothing) {
  open();
  publish(1);
  hall_->forget();
  const JobStatus before = look();
  EXPECT_EQ(look(), before);
  EXPECT_TRUE(hall_->coordinator().take_outbox().empty());
}

TEST(StatusDesk, AnswersSoManyAtOnceAndThenAsTimePasses) {
  publisher::StatusDesk desk;
  auto now = kStart;
  int answered = 0;
  const auto ask = [&](std::size_t members) {
    if (!desk.has_time(now)) return;
    desk.spend(members);
    ++answered;
  };

  for (int i = 0; i < 1000; ++i) ask(0);
  EXPECT_EQ(answered, 20);
  for (int i = 0; i < 1000; ++i) {
    now += 1ms;
    ask(0);
  }
  EXPECT_GE(answered, 20 + 49);
  EXPECT_LE(answered, 20 + 51);

  now += 10s;
  answered = 0;
  for (int i = 0; i < 1000; ++i) ask(1024);
  EXPECT_EQ(answered, 2) << "an answer about many members counts for more";
}

}  // namespace
}  // namespace weightcast::protocol
