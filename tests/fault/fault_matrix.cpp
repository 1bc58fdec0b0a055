// Every way of losing a process in the middle of a version: 3 victims x 2 signals x 4 phases x 7 ways
// in which versions travel and are taken in. One case a cell; `fault_matrix --report FILE` runs all,
// four at a time, and writes the table of docs/reliability.md.
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
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

struct Way {
  const char* mode;
  const char* transport;
  const char* activation;
};
constexpr std::array kWays{Way{"broadcast", "shm", "view"}, Way{"broadcast", "shm", "flip"},
                           Way{"broadcast", "shm", "staged"}, Way{"broadcast", "tcp", "flip"},
                           Way{"broadcast", "tcp", "serial"}, Way{"p2p", "shm", "view"},
                           Way{"p2p", "tcp", "flip"}};

std::string text_of(const Way& way) {
  return std::string(way.mode) + " " + way.transport + " " + way.activation;
}

struct Row {
  std::string fault;              ///< phase | victim | signal
  std::size_t way = 0;
  bool ok = false;
  std::int64_t recovery_ms = -1;  ///< from the fault (engine) or the return (trainer) to new versions
};
std::vector<Row> rows;

using Cell = std::tuple<Phase, Victim, int, std::size_t>;

std::string name_of(const ::testing::TestParamInfo<Cell>& info) {
  const auto& [phase, victim, signal, way] = info.param;
  std::string name = std::string(kVictims[static_cast<std::size_t>(victim)]) + "_" +
                     (signal == SIGKILL ? "killed" : "stopped") + "_" +
                     kPhases[static_cast<std::size_t>(phase)] + "_" + text_of(kWays[way]);
  for (char& c : name) c = c == ' ' ? '_' : c;
  return name;
}

JobOptions options_of(const Way& way) {
  JobOptions options;
  options.mode = way.mode;
  options.transport = way.transport;
  options.activation = way.activation;
  return options;
}

class FaultMatrix : public ::testing::TestWithParam<Cell> {
 protected:
  FaultMatrix() : job(options_of(kWays[std::get<3>(GetParam())])) {}

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
    } else {
      lost.signal(SIGCONT);
      ASSERT_TRUE(job.train_until([&] { return lost.running() && lost.rejoined > 0; }))
          << job.why();
      ASSERT_TRUE(job.versions_flow(2)) << job.why();
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
    } else {
      lost.signal(SIGCONT);
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
    } else {
      lost.signal(SIGCONT);
      ASSERT_TRUE(job.versions_flow(1)) << job.why();
    }
    recovered(back);
    ASSERT_TRUE(job.versions_flow(3)) << job.why();
  }

  void TearDown() override {
    row.fault = std::string(kPhases[static_cast<std::size_t>(phase())]) + " | " +
                kVictims[static_cast<std::size_t>(victim())] + " | " +
                (killed() ? "SIGKILL" : "SIGSTOP");
    row.way = std::get<3>(GetParam());
    row.ok = !HasFailure();
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
  EXPECT_EQ(job.finish(), "");
}

INSTANTIATE_TEST_SUITE_P(
    Cells, FaultMatrix,
    ::testing::Combine(::testing::Values(Phase::kBeforePrepare, Phase::kCopying, Phase::kStaged,
                                         Phase::kCommitted),
                       ::testing::Values(Victim::kEngine, Victim::kRank1, Victim::kRank0),
                       ::testing::Values(SIGKILL, SIGSTOP),
                       ::testing::Range(std::size_t{0}, kWays.size())),
    name_of);

// ---- the table of all cells -----------------------------------------------------------------

/// Each shard writes its rows to a file of its own, a line each.
void write_rows(const std::string& file) {
  std::ofstream out(file);
  for (const Row& row : rows) {
    out << row.way << "\t" << row.ok << "\t" << row.recovery_ms << "\t" << row.fault << "\n";
  }
}

std::vector<Row> read_rows(const std::string& file) {
  std::vector<Row> read;
  std::ifstream in(file);
  for (Row row; in >> row.way >> row.ok >> row.recovery_ms;) {
    in.ignore();
    std::getline(in, row.fault);
    read.push_back(row);
  }
  return read;
}

/// A fault a line, a way a column: milliseconds to recovery.
std::string table_of(const std::vector<Row>& all) {
  std::map<std::string, std::map<std::size_t, std::string>> cells;
  for (const Row& row : all) {
    cells[row.fault][row.way] =
        row.ok ? std::to_string(row.recovery_ms) : std::string("FAILED");
  }
  std::ostringstream text;
  text << "| phase | victim | signal |";
  for (const Way& way : kWays) text << " " << text_of(way) << " |";
  text << "\n|---|---|---|";
  for (std::size_t i = 0; i < kWays.size(); ++i) text << "---:|";
  text << "\n";
  for (const char* phase : kPhases) {
    for (const char* victim : kVictims) {
      for (const char* signal : {"SIGKILL", "SIGSTOP"}) {
        const std::string fault = std::string(phase) + " | " + victim + " | " + signal;
        text << "| " << fault << " |";
        for (std::size_t i = 0; i < kWays.size(); ++i) {
          const auto& row = cells[fault];
          text << " " << (row.contains(i) ? row.at(i) : "not run") << " |";
        }
        text << "\n";
      }
    }
  }
  return text.str();
}

/// Runs this executable four times at once, each with a quarter of the cells.
int run_all(const std::string& report) {
  constexpr int kAtOnce = 4;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::array<pid_t, kAtOnce> shards{};
  const auto rows_of = [&](int i) { return report + ".rows-" + std::to_string(i); };
  for (int i = 0; i < kAtOnce; ++i) {
    shards[i] = ::fork();
    if (shards[i] == 0) {
      ::setenv("GTEST_TOTAL_SHARDS", std::to_string(kAtOnce).c_str(), 1);
      ::setenv("GTEST_SHARD_INDEX", std::to_string(i).c_str(), 1);
      const std::string file = rows_of(i);
      ::execl(self.c_str(), self.c_str(), "--gtest_brief=1", "--rows", file.c_str(), nullptr);
      ::_exit(127);
    }
  }
  int failed = 0;
  std::vector<Row> all;
  for (int i = 0; i < kAtOnce; ++i) {
    int status = 0;
    ::waitpid(shards[i], &status, 0);
    failed |= WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    for (Row& row : read_rows(rows_of(i))) all.push_back(std::move(row));
    std::filesystem::remove(rows_of(i));
  }
  const std::string table = table_of(all);
  std::ofstream(report) << table;
  std::cout << "\n" << table << all.size() << " cells, "
            << std::count_if(all.begin(), all.end(), [](const Row& row) { return !row.ok; })
            << " failed\n";
  return failed;
}

}  // namespace
}  // namespace weightcast::test

int main(int argc, char** argv) {
  std::string report;
  std::string shard_rows;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], "--report") == 0) report = argv[i + 1];
    if (std::strcmp(argv[i], "--rows") == 0) shard_rows = argv[i + 1];
  }
  if (!report.empty()) return weightcast::test::run_all(report);
  ::testing::InitGoogleTest(&argc, argv);
  const int failed = RUN_ALL_TESTS();
  if (!shard_rows.empty()) weightcast::test::write_rows(shard_rows);
  return failed;
}
