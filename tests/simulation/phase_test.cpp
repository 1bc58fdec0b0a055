// Scripted faults: somebody is killed, or stopped and continued, at each phase of a version's way.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "simulation/engine.hpp"
#include "simulation/trainer.hpp"
#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {

enum class Victim { kEngine, kOtherRank, kRankZero };
enum class Fault { kKill, kStop };

/// How versions travel and are taken in.
enum class Way { kView, kFlip, kStaged, kSerial, kFlipTcp, kSerialTcp, kP2pView, kP2pFlipTcp };
constexpr const char* kWays[] = {"View",    "Flip",      "Staged",  "Serial",
                                 "FlipTcp", "SerialTcp", "P2pView", "P2pFlipTcp"};

using Case = std::tuple<Phase, Fault, Victim, Way>;

std::string name_of(const Case& it) {
  const auto [phase, fault, victim, way] = it;
  const char* phases[] = {"BeforePrepare", "WhileCopying", "AfterStaged", "AfterCommit"};
  const char* victims[] = {"Engine", "OtherRank", "RankZero"};
  return std::string(fault == Fault::kKill ? "Kill" : "Stop") +
         victims[static_cast<int>(victim)] + phases[static_cast<int>(phase)] +
         kWays[static_cast<int>(way)];
}

Scenario two_ranks_three_engines(Way way) {
  Scenario it;
  it.seed = 1;
  it.joiners = 0;
  it.lockstep = false;
  // Ranks here outlive rank 0: one slot more than engines, as they may view different versions.
  it.slots = 4;
  const bool over_tcp = way == Way::kFlipTcp || way == Way::kSerialTcp || way == Way::kP2pFlipTcp;
  it.flip_permille = way == Way::kFlip || way == Way::kFlipTcp || way == Way::kP2pFlipTcp ? 1000 : 0;
  it.staged_permille = way == Way::kStaged ? 1000 : 0;
  it.serial_permille = way == Way::kSerial || way == Way::kSerialTcp ? 1000 : 0;
  it.network_permille = over_tcp ? 1000 : 0;
  it.p2p = way == Way::kP2pView || way == Way::kP2pFlipTcp;
  return it;
}

class PhaseFault : public testing::TestWithParam<Case> {
 protected:
  PhaseFault() : world_(two_ranks_three_engines(std::get<3>(GetParam()))) {
    world_.scripted = true;
  }

  /// Runs until all three engines serve something newer than `than`.
  bool all_serve_newer(const Version& than, Duration limit) {
    return world_.run_until(
        [&] {
          for (std::uint32_t i = 0; i < 3; ++i) {
            const Engine* engine = world_.engine(i);
            if (engine == nullptr || engine->serves() <= than) return false;
          }
          return true;
        },
        limit);
  }

  Pid pid_of(Victim victim) const {
    switch (victim) {
      case Victim::kEngine: return world_.engine(0)->pid();
      case Victim::kOtherRank: return world_.rank(1)->pid();
      case Victim::kRankZero: return world_.rank(0)->pid();
    }
    return 0;
  }

  /// Strikes `victim` when `phase` is next passed: by itself where it passes that phase, else by
  /// whoever does.
  bool strike(Phase phase, Fault fault, Victim victim) {
    const Pid pid = pid_of(victim);
    bool struck = false;
    world_.on_phase = [&, pid](Phase now, Process& process) {
      // Engines copy, stage and commit; ranks publish, copy and commit. What the victim does not
      // do itself is taken from whoever does it.
      const bool its_own_phase = victim == Victim::kEngine      ? now != Phase::kBeforePrepare
                                 : victim == Victim::kOtherRank ? now == Phase::kCopying
                                                                : now != Phase::kStaged;
      if (struck || now != phase || (its_own_phase && process.pid() != pid)) return;
      struck = true;
      if (fault == Fault::kKill) {
        world_.kill(pid);
      } else {
        world_.stop(pid);
      }
    };
    const bool reached = world_.run_until(
        [&] { return struck && (world_.find(pid) == nullptr || world_.find(pid)->stopped()); },
        5s);
    world_.on_phase = nullptr;
    return reached;
  }

  Version newest() const {
    Version newest;
    for (std::uint32_t i = 0; i < 3; ++i) {
      if (const Engine* engine = world_.engine(i)) newest = std::max(newest, engine->serves());
    }
    return newest;
  }

  void expect_rules_kept() {
    EXPECT_FALSE(world_.truth.failed()) << world_.truth.rule() << ": " << world_.truth.what();
  }

  World world_;
};

TEST_P(PhaseFault, OthersGoOnAndItComesBack) {
  const auto [phase, fault, victim, way] = GetParam();
  world_.start();
  ASSERT_TRUE(all_serve_newer(Version{}, 5s)) << world_.picture();
  ASSERT_TRUE(strike(phase, fault, victim)) << world_.picture();
  const Pid pid = fault == Fault::kStop ? pid_of(victim) : 0;
  const auto run = newest().run;

  // While it is away.
  if (victim == Victim::kEngine) {
    const Version before = newest();
    const auto others_advance = [&] {
      return world_.engine(1)->serves().number >= before.number + 3 &&
             world_.engine(2)->serves().number >= before.number + 3;
    };
    EXPECT_TRUE(world_.run_until(others_advance, world_.scenario.attempt_timeout * 2))
        << world_.picture();
  } else {
    // What was sealed already may still come; then nothing new does, and engines serve on.
    world_.run_until([] { return false; }, world_.scenario.attempt_timeout);
    const Version last = newest();
    const std::uint64_t leases = world_.truth.coverage.leases;
    world_.run_until([] { return false; }, 2s);
    EXPECT_EQ(newest(), last);
    EXPECT_FALSE(last.is_none());
    EXPECT_GT(world_.truth.coverage.leases, leases);
  }
  expect_rules_kept();

  // It comes back: the same process, or a new one in its place.
  const Version before_return = newest();
  if (fault == Fault::kStop) {
    world_.cont(pid);
  } else if (victim == Victim::kEngine) {
    world_.start_engine(0);
  } else {
    world_.start_rank(victim == Victim::kRankZero ? 0 : 1);
  }
  EXPECT_TRUE(all_serve_newer(before_return, 10s)) << world_.picture();
  if (victim == Victim::kRankZero && fault == Fault::kKill) {
    EXPECT_GT(newest().run, run) << "the next run seeds the engines";
  } else {
    EXPECT_EQ(newest().run, run);
  }
  expect_rules_kept();
}

class StoppedEngine : public PhaseFault {};

TEST_P(StoppedEngine, IsRefusedAsStaleAndRejoins) {
  const auto [phase, fault, victim, way] = GetParam();
  world_.start();
  ASSERT_TRUE(all_serve_newer(Version{}, 5s)) << world_.picture();
  ASSERT_TRUE(strike(phase, fault, victim)) << world_.picture();
  const std::uint64_t stay = world_.engine(0)->receiver().incarnation();
  const auto& counters = world_.rank(0)->coordinator()->counters();
  const std::uint64_t refused = counters.refused;
  ASSERT_TRUE(world_.run_until([&] { return counters.receivers_evicted == 1; }, 5s));

  world_.cont(pid_of(victim));

  EXPECT_TRUE(world_.run_until(
      [&] {
        const auto& receiver = world_.engine(0)->receiver();
        return receiver.attached() && receiver.incarnation() > stay;
      },
      5s));
  EXPECT_GT(counters.refused, refused);
  expect_rules_kept();
}

INSTANTIATE_TEST_SUITE_P(
    Simulation, PhaseFault,
    testing::Combine(testing::Values(Phase::kBeforePrepare, Phase::kCopying, Phase::kStaged,
                                     Phase::kCommitted),
                     testing::Values(Fault::kKill, Fault::kStop),
                     testing::Values(Victim::kEngine, Victim::kOtherRank, Victim::kRankZero),
                     testing::Values(Way::kView, Way::kFlip, Way::kStaged, Way::kSerial,
                                     Way::kFlipTcp, Way::kSerialTcp, Way::kP2pView,
                                     Way::kP2pFlipTcp)),
    [](const auto& its) { return name_of(its.param); });

INSTANTIATE_TEST_SUITE_P(
    Simulation, StoppedEngine,
    testing::Combine(testing::Values(Phase::kBeforePrepare, Phase::kCopying, Phase::kStaged,
                                     Phase::kCommitted),
                     testing::Values(Fault::kStop), testing::Values(Victim::kEngine),
                     testing::Values(Way::kView, Way::kFlip, Way::kStaged, Way::kSerial,
                                     Way::kFlipTcp, Way::kSerialTcp, Way::kP2pView,
                                     Way::kP2pFlipTcp)),
    [](const auto& its) { return name_of(its.param); });

}  // namespace
}  // namespace weightcast::simulation
