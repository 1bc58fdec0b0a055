// Bugs planted on purpose, in the machines and in what drives them: each must be caught by the same
// checks and within the same seeds as the simulation itself runs.
#include <gtest/gtest.h>

#include <iostream>
#include <string>
#include <vector>

#include "protocol/seeded_bug.hpp"
#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {

using protocol::Bug;

constexpr std::uint64_t kMostSeeds = 2000;

struct Planted {
  const char* name;
  std::vector<Bug> machine;
  DriverBug driver = DriverBug::kNone;
};

void PrintTo(const Planted& planted, std::ostream* out) { *out << planted.name; }

class SeededBug : public testing::TestWithParam<Planted> {
 protected:
  void SetUp() override {
    for (const Bug bug : GetParam().machine) protocol::seeded_bugs() |= protocol::bug_bit(bug);
  }
  void TearDown() override { protocol::seeded_bugs() = 0; }
};

TEST_P(SeededBug, IsCaught) {
  for (std::uint64_t seed = 1; seed <= kMostSeeds; ++seed) {
    Scenario scenario = scenario_of(seed);
    scenario.bug = GetParam().driver;
    World world(scenario);

    world.play();

    if (!world.truth.failed()) continue;
    const std::string what = world.truth.what();
    std::cout << "caught " << GetParam().name << " by seed " << seed << ", rule \""
              << world.truth.rule() << "\": " << what.substr(0, what.find('\n')) << std::endl;
    return;
  }
  FAIL() << GetParam().name << " went unnoticed in " << kMostSeeds << " seeds";
}

const std::vector<Planted> kPlanted = {
    {"IgnoreReaderLock", {Bug::kIgnoreReaderLock}},
    {"ReuseKeptSlot", {Bug::kReuseKeptSlot}},
    {"LostRelease", {Bug::kLostRelease}},
    {"AckBeforePlacing", {Bug::kAckBeforePlacing}},
    // Either alone is stopped by the other's check.
    {"StaleAttemptAccepted", {Bug::kStaleAttemptAccepted, Bug::kOldOrdersObeyed}},
    {"StaleRunAccepted", {Bug::kStaleRunAccepted}},
    {"NoQuarantine", {Bug::kNoQuarantine}},
    {"EarlyCommit", {Bug::kEarlyCommit}},
    {"NoEviction", {Bug::kNoEviction}},
    {"StaleIncarnationCounted", {Bug::kStaleIncarnationCounted}},
    {"VoidForgotten", {Bug::kVoidForgotten}},
    {"NoRetry", {Bug::kNoRetry}},
    {"CatchUpUnpinned", {Bug::kCatchUpUnpinned}},
    {"LateGrantUsed", {Bug::kLateGrantUsed}},
    {"UnsealedCounted", {Bug::kUnsealedCounted}},
    {"AllDirtyAtOnce", {Bug::kAllDirtyAtOnce}},
    {"DirtyWithoutSource", {Bug::kDirtyWithoutSource}},
    {"InPlaceUnpinned", {Bug::kInPlaceUnpinned}},
    {"NoFence", {}, DriverBug::kNoFence},
    {"LateBuffers", {}, DriverBug::kLateBuffers},
    {"SkippedVerification", {}, DriverBug::kSkippedVerification},
    {"LockDroppedEarly", {}, DriverBug::kLockDroppedEarly},
    {"HeaderNotChecked", {}, DriverBug::kHeaderNotChecked},
    {"SealedTooEarly", {}, DriverBug::kSealedTooEarly},
    {"EndlessFence", {}, DriverBug::kEndlessFence},
    {"ThirdImage", {}, DriverBug::kThirdImage},
    {"SwitchUnasked", {}, DriverBug::kSwitchUnasked},
    {"NoDrain", {}, DriverBug::kNoDrain},
    {"AheadTrusted", {}, DriverBug::kAheadTrusted},
    {"LeasedWhileDirty", {}, DriverBug::kLeasedWhileDirty},
};

INSTANTIATE_TEST_SUITE_P(Simulation, SeededBug, testing::ValuesIn(kPlanted),
                         [](const auto& its) { return std::string(its.param.name); });

}  // namespace
}  // namespace weightcast::simulation
