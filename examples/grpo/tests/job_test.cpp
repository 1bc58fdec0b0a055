// A whole job at its tiniest: trainer and worker as processes, a few iterations. GRPO_TRAINER and
// GRPO_WORKER name the programs. The trainer's and the worker's own limits bound every wait.
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace {

constexpr int kIterations = 4;

std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// A job of its own, named by the parameter: the mode.
class GrpoJobTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    trainer_ = getenv("GRPO_TRAINER");
    worker_ = getenv("GRPO_WORKER");
    ASSERT_TRUE(trainer_ != nullptr && worker_ != nullptr)
        << "GRPO_TRAINER and GRPO_WORKER must name the programs; Meson's test sets them";
    std::string pattern = testing::TempDir() + "grpo_job.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  /// Starts `program` with the arguments that both have and these; its output goes to NAME.log.
  pid_t start(const char* program, const std::string& name, std::vector<std::string> more) const {
    std::vector<std::string> arguments{program,
                                       "--directory",
                                       directory_,
                                       "--size",
                                       "tiny",
                                       "--digits",
                                       "1",
                                       "--idle-limit",
                                       "30",
                                       "--proof",
                                       path(name + ".jsonl"),
                                       "--weightcast.directory=" + path("meet"),
                                       "--weightcast.job=" + std::filesystem::path(directory_).filename().string(),
                                       "--weightcast.mode=" + GetParam()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string log = path(name + ".log");
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child != 0) return child;
    // A test that is killed takes its job along.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || freopen(log.c_str(), "w", stdout) == nullptr ||
        dup2(STDOUT_FILENO, STDERR_FILENO) < 0) {
      _exit(127);
    }
    execv(program, argv.data());
    _exit(127);
  }

  static int ended(pid_t process) {
    int status = -1;
    EXPECT_EQ(waitpid(process, &status, 0), process);
    return status;
  }

  const char* trainer_ = nullptr;
  const char* worker_ = nullptr;
  std::string directory_;
};

TEST_P(GrpoJobTest, ServesTheTrainersBitsAndLearnsFromWhatComesBack) {
  const pid_t worker = start(worker_, "worker", {"--groups", "4", "--group-size", "4"});
  ASSERT_GT(worker, 0);
  const pid_t trainer =
      start(trainer_, "trainer",
            {"--iterations", std::to_string(kIterations), "--batches", "2", "--goal", "0",
             "--warm-up-steps", "60", "--time-limit", "60", "--metrics", path("metrics.jsonl")});
  ASSERT_GT(trainer, 0);

  const int trained = ended(trainer);
  kill(worker, SIGTERM);
  const int worked = ended(worker);

  EXPECT_EQ(trained, 0) << text_of(path("trainer.log"));
  EXPECT_EQ(worked, 0) << text_of(path("worker.log"));
  std::map<std::uint64_t, std::string> hashes;
  std::set<std::string> different;
  for (const auto& line : lines_of(path("trainer.jsonl"))) {
    hashes[line["version"]] = line["hash"];
    different.insert(line["hash"].get<std::string>());
  }
  // A point without samples since the last one publishes the same weights again.
  EXPECT_GE(hashes.size(), kIterations + 1U);
  EXPECT_EQ(different.size(), kIterations + 1U);
  std::set<std::uint64_t> served;
  for (const auto& lease : lines_of(path("worker.jsonl"))) {
    const std::uint64_t version = lease["version"];
    served.insert(version);
    ASSERT_EQ(hashes.count(version), 1U) << version;
    EXPECT_EQ(lease["hash_start"], hashes[version]) << version;
    EXPECT_EQ(lease["hash_end"], hashes[version]) << version;
  }
  // Two batches an iteration, none of them older than one version.
  EXPECT_GE(served.size(), kIterations / 2U);
  const auto metrics = lines_of(path("metrics.jsonl"));
  ASSERT_EQ(metrics.size(), kIterations + 1U);  // The first line is the warm-up's.
  for (int i = 1; i <= kIterations; ++i) {
    EXPECT_EQ(metrics[static_cast<std::size_t>(i)]["iteration"], i);
    EXPECT_LE(metrics[static_cast<std::size_t>(i)]["behind"], 1.0);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, GrpoJobTest, testing::Values("broadcast", "p2p"),
                         [](const auto& it) { return it.param; });

}  // namespace
