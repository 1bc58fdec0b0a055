// Every way of losing a process in the middle of a version: 3 victims x 2 signals x 4 phases x 2
// activations. One case a cell; `fault_matrix --report FILE` also writes the table of
// docs/reliability.md.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>
#include <sstream>
#include <tuple>

#include "fault/job.hpp"

namespace weightcast::test {
namespace {

enum class Victim { kEngine, kRank1, kRank0 };
enum class Phase { kBeforePrepare, kCopying, kStaged, kCommitted };

constexpr std::array kVictims{"engine", "rank 1", "rank 0"};
constexpr std::array kPhases{"before prepare", "while copying", "after staged", "after commit"};
/// Where the victim meets the signal, by phase.
constexpr std::array kEnginePoints{"engine.prepare", "engine.copying", "engine.staged",
                                   "engine.committed"};
constexpr std::array kTrainerPoints{"trainer.granted", "trainer.copying", "trainer.published",
                                    "trainer.committed"};

struct Row {
  std::string cell;
  std::string outcome;
  std::uint64_t versions = 0;     ///< newest at the end
  std::int64_t recovery_ms = -1;  ///< from the fault (engine) or the return (trainer) to new versions
};
std::vector<Row> rows;

using Cell = std::tuple<Phase, Victim, int, const char*>;

std::string name_of(const ::testing::TestParamInfo<Cell>& info) {
  const auto& [phase, victim, signal, activation] = info.param;
  std::string name = std::string(kVictims[static_cast<std::size_t>(victim)]) + "_" +
                     (signal == SIGKILL ? "killed" : "stopped") + "_" +
                     kPhases[static_cast<std::size_t>(phase)] + "_" + activation;
  for (char& c : name) c = c == ' ' ? '_' : c;
  return name;
}

class FaultMatrix : public ::testing::TestWithParam<Cell> {
 protected:
  FaultMatrix() : job({.activation = std::get<3>(GetParam())}) {}

  Phase phase() const { return std::get<0>(GetParam()); }
  Victim victim() const { return std::get<1>(GetParam()); }
  bool killed() const { return std::get<2>(GetParam()) == SIGKILL; }
  FaultProcess::State down() const {
    return killed() ? FaultProcess::State::kDead : FaultProcess::State::kStopped;
  }

  void start() {
    job.start_rank(0);
    job.start_rank(1);
    job.start_engine("a");
    job.start_engine("b");
    if (victim() == Victim::kEngine) job.start_engine("victim");
    ASSERT_TRUE(job.versions_flow(2)) << job.why();
  }

  /// Lets the signal meet `process` at this cell's place.
  void strike(FaultProcess& process) {
    const auto& points = victim() == Victim::kEngine ? kEnginePoints : kTrainerPoints;
    process.may_die = killed();
    process.say(std::string("arm ") + points[static_cast<std::size_t>(phase())] + " " +
                std::to_string(std::get<2>(GetParam())));
    ASSERT_TRUE(job.train_until([&] { return process.state() == down(); })) << job.why();
    fault_at = Clock::now();
  }

  void recovered(Clock::time_point since) {
    row.recovery_ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - since).count();
  }

  void lose_an_engine() {
    FaultProcess& lost = job.engine("victim");
    ASSERT_NO_FATAL_FAILURE(strike(lost));
    ASSERT_TRUE(job.versions_flow(1, &lost)) << job.why();
    recovered(fault_at);
    ASSERT_TRUE(job.versions_flow(4, &lost)) << job.why();
    const FaultProcess& coordinator = job.rank(0);
    ASSERT_TRUE(job.train_until([&] {
      return coordinator.logged("event=receiver_gone name=victim why=silent");
    })) << job.why();
    const std::uint64_t meanwhile = job.newest();
    if (killed()) {
      job.start_engine("victim");
      ASSERT_TRUE(job.versions_flow(2)) << job.why();
      row.outcome = "others advance; its replacement joins";
    } else {
      lost.signal(SIGCONT);
      ASSERT_TRUE(job.train_until([&] { return lost.running() && lost.rejoined > 0; }))
          << job.why();
      ASSERT_TRUE(job.versions_flow(2)) << job.why();
      row.outcome = "others advance; continued, it is refused as stale, rejoins and follows";
    }
    EXPECT_GT(job.engine("victim").serving(job.rank(0).run), meanwhile);
  }

  void lose_rank_1() {
    FaultProcess& lost = job.rank(1);
    ASSERT_NO_FATAL_FAILURE(strike(lost));
    const FaultProcess& coordinator = job.rank(0);
    ASSERT_TRUE(job.train_until([&] { return coordinator.logged("event=source_gone rank=1"); }))
        << job.why();
    // Rank 0 trains on: its points come and go, and none becomes a version.
    const std::uint64_t point = coordinator.point;
    ASSERT_TRUE(job.train_until([&] { return coordinator.point >= point + 2; })) << job.why();
    const std::uint64_t before = coordinator.published;
    ASSERT_TRUE(job.train_until([&] { return coordinator.point >= point + 30; })) << job.why();
    ASSERT_TRUE(job.leases_go_on()) << job.why();
    EXPECT_EQ(coordinator.published, before) << "a version without rank 1";
    EXPECT_LE(job.newest(), before);

    const auto back = Clock::now();
    if (killed()) {
      job.start_rank(1);
      row.outcome = "no version without it, engines serve on; its replacement joins";
    } else {
      lost.signal(SIGCONT);
      row.outcome = "no version without it, engines serve on; continued, it rejoins";
    }
    ASSERT_TRUE(job.versions_flow(1)) << job.why();
    recovered(back);
    ASSERT_TRUE(job.versions_flow(3)) << job.why();
  }

  void lose_rank_0() {
    FaultProcess& lost = job.rank(0);
    ASSERT_NO_FATAL_FAILURE(strike(lost));
    ASSERT_TRUE(job.train_until([&] {
      return job.all_engines([](const FaultProcess& engine) { return !engine.attached; });
    })) << job.why();
    const std::uint64_t before = job.newest();
    const std::uint64_t point = job.rank(1).point;
    ASSERT_TRUE(job.train_until([&] { return job.rank(1).point >= point + 30; })) << job.why();
    ASSERT_TRUE(job.leases_go_on()) << job.why();
    EXPECT_EQ(job.newest(), before) << "a version without a coordinator";

    const auto back = Clock::now();
    if (killed()) {
      // As torchrun does it: the other ranks are ended, and all start again.
      const std::string former = job.rank(0).run;
      job.rank(1).kill();
      job.next_launch();
      job.start_rank(0);
      job.start_rank(1);
      ASSERT_TRUE(job.train_until([&] { return job.oldest() > 0; })) << job.why();
      EXPECT_NE(job.rank(0).run, former);
      row.outcome = "engines serve on; the next run seeds them";
    } else {
      lost.signal(SIGCONT);
      row.outcome = "no version without it, engines serve on; continued, versions flow";
      ASSERT_TRUE(job.versions_flow(1)) << job.why();
    }
    recovered(back);
    ASSERT_TRUE(job.versions_flow(3)) << job.why();
  }

  void TearDown() override {
    row.cell = std::string(kPhases[static_cast<std::size_t>(phase())]) + " | " +
               kVictims[static_cast<std::size_t>(victim())] + " | " +
               (killed() ? "SIGKILL" : "SIGSTOP") + " | " + std::get<3>(GetParam());
    if (HasFailure()) row.outcome = "FAILED";
    rows.push_back(row);
  }

  FaultJob job;
  Clock::time_point fault_at;
  Row row;
};

TEST_P(FaultMatrix, TheOthersGoOnAndNothingIsTorn) {
  ASSERT_NO_FATAL_FAILURE(start());
  switch (victim()) {
    case Victim::kEngine: ASSERT_NO_FATAL_FAILURE(lose_an_engine()); break;
    case Victim::kRank1: ASSERT_NO_FATAL_FAILURE(lose_rank_1()); break;
    case Victim::kRank0: ASSERT_NO_FATAL_FAILURE(lose_rank_0()); break;
  }
  // The slots and the anchor of each living rank, and nothing of a dead one.
  constexpr std::size_t kObjects = FaultJob::kRanks * (4 + 1);
  EXPECT_TRUE(job.train_until([&] { return job.shared_memory().size() == kObjects; }))
      << job.shared_memory().size() << " objects in shared memory instead of " << kObjects << "; "
      << job.why();
  row.versions = job.newest();
  EXPECT_EQ(job.finish(), "");
}

INSTANTIATE_TEST_SUITE_P(
    Cells, FaultMatrix,
    ::testing::Combine(::testing::Values(Phase::kBeforePrepare, Phase::kCopying, Phase::kStaged,
                                         Phase::kCommitted),
                       ::testing::Values(Victim::kEngine, Victim::kRank1, Victim::kRank0),
                       ::testing::Values(SIGKILL, SIGSTOP), ::testing::Values("view", "flip")),
    name_of);

std::string table() {
  std::ostringstream text;
  text << "| phase | victim | signal | activation | outcome | newest version | to recovery |\n"
       << "|---|---|---|---|---|---:|---:|\n";
  for (const Row& row : rows) {
    text << "| " << row.cell << " | " << row.outcome << " | " << row.versions << " | ";
    if (row.recovery_ms >= 0) text << row.recovery_ms << " ms";
    text << " |\n";
  }
  return text.str();
}

}  // namespace
}  // namespace weightcast::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::string report;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--report") == 0 && i + 1 < argc) report = argv[++i];
  }
  const int failed = RUN_ALL_TESTS();
  const std::string table = weightcast::test::table();
  if (!weightcast::test::rows.empty()) std::cout << "\n" << table;
  if (!report.empty()) std::ofstream(report) << table;
  return failed;
}
