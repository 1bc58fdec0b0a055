// Several processes on one GPU, each a rank of NCCL that says it is on another host. Slow (bytes go
// over loopback): this is about whether they come right, and about what fails.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "driver/nccl.hpp"
#include "gpu/device_fixture.hpp"
#include "gpu/spawned.hpp"

namespace weightcast {
namespace {

constexpr std::uint64_t kBytes = (std::uint64_t{192} << 20) + 4096 + 17;
constexpr std::uint64_t kBucketBytes = std::uint64_t{2} << 20;
constexpr int kBuckets = 97;  // so many that the rest never fits into what NCCL and sockets buffer

class NcclProcessesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto cuda = driver::load_cuda();
    if (!cuda) GTEST_SKIP() << cuda.status().to_string();
    const auto nccl = driver::load_nccl();
    if (!nccl) GTEST_SKIP() << nccl.status().to_string();
    std::printf("nccl version=%d\n", (*nccl)->version());
  }

  /// The first peer is the source.
  void start(int receivers) {
    peers_.clear();
    const std::string program =
        (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "nccl_peer").string();
    for (int i = 0; i <= receivers; ++i) {
      peers_.push_back(std::make_unique<test::Spawned>(
          program, std::vector<std::string>{"weightcast-test-" + std::to_string(i),
                                            i == 0 ? "source" : "receiver",
                                            std::to_string(kBytes), std::to_string(kBucketBytes)}));
    }
    for (auto& peer : peers_) ASSERT_EQ(peer->hear(), "ready");
  }

  std::string ask(std::size_t peer, const std::string& line) {
    peers_[peer]->say(line);
    return peers_[peer]->hear();
  }
  /// All at once. @return their answers
  std::vector<std::string> ask_all(const std::string& line) {
    for (auto& peer : peers_) peer->say(line);
    std::vector<std::string> answers;
    for (auto& peer : peers_) answers.push_back(peer->hear());
    return answers;
  }
  void expect_all(const std::string& line, const std::string& answer) {
    for (const std::string& got : ask_all(line)) EXPECT_EQ(got, answer) << line;
  }

  void join(int generation) {
    const std::string id = ask(0, "id");
    ASSERT_EQ(id.substr(0, 3), "id ") << id;
    int rank = 0;
    for (auto& peer : peers_) {
      peer->say("join " + std::to_string(generation) + " " + std::to_string(rank++) + " " +
                std::to_string(peers_.size()) + " " + id.substr(3));
    }
    for (auto& peer : peers_) ASSERT_EQ(peer->hear(), "joined");
  }
  void expect_version(int seed) {
    for (std::size_t i = 1; i < peers_.size(); ++i) {
      EXPECT_EQ(ask(i, "check " + std::to_string(seed)), "right") << "receiver " << i;
    }
  }
  void publish(const std::string& mode, int seed) {
    EXPECT_EQ(ask(0, "write " + std::to_string(seed)), "written");
    expect_all("move " + mode + " 0", "done");
    expect_version(seed);
  }

  /// The buckets that all who say "failed N ..." have.
  static int first_missing(const std::vector<std::string>& answers) {
    int first = kBuckets;
    for (const std::string& answer : answers) {
      std::istringstream line(answer);
      std::string what;
      int buckets = kBuckets;
      line >> what;
      if (what == "failed") line >> buckets;
      first = std::min(first, buckets);
    }
    return first;
  }

  std::vector<std::unique_ptr<test::Spawned>> peers_;
};

TEST_F(NcclProcessesTest, VersionsReachOneTwoAndFourReceiversBothWays) {
  for (const int receivers : {1, 2, 4}) {
    SCOPED_TRACE(std::to_string(receivers) + " receivers");
    start(receivers);
    if (HasFatalFailure()) return;
    join(1);
    if (HasFatalFailure()) return;
    int seed = 0;
    for (const char* mode : {"broadcast", "p2p", "broadcast"}) publish(mode, ++seed);
    expect_all("leave", "left");
    for (auto& peer : peers_) EXPECT_EQ(peer->end(), 0);
  }
}

TEST_F(NcclProcessesTest, SurvivorsOfAReceiverKilledInABroadcastGoOn) {
  start(3);
  if (HasFatalFailure()) return;
  join(1);
  if (HasFatalFailure()) return;
  publish("broadcast", 1);
  EXPECT_EQ(ask(0, "write 2"), "written");
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    peers_[i]->say(i == 2 ? "move broadcast 0 4" : "move broadcast 0");
  }
  EXPECT_EQ(peers_[2]->hear(), "at 4");
  const auto killed = std::chrono::steady_clock::now();
  peers_[2]->kill();
  peers_.erase(peers_.begin() + 2);
  std::vector<std::string> answers;
  for (auto& peer : peers_) answers.push_back(peer->hear());
  for (const std::string& answer : answers) EXPECT_EQ(answer.substr(0, 7), "failed ") << answer;
  const int first = first_missing(answers);
  EXPECT_GE(first, 3);
  EXPECT_LT(first, kBuckets);
  join(2);
  if (HasFatalFailure()) return;
  expect_all("move broadcast " + std::to_string(first), "done");
  std::printf("killed to whole again: %.2f s\n",
              std::chrono::duration<double>(std::chrono::steady_clock::now() - killed).count());
  expect_version(2);
  publish("broadcast", 3);
  expect_all("leave", "left");
}

TEST_F(NcclProcessesTest, AReceiverThatIsStoppedHoldsNobodyUpForGood) {
  start(2);
  if (HasFatalFailure()) return;
  join(1);
  if (HasFatalFailure()) return;
  EXPECT_EQ(ask(0, "write 5"), "written");
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    peers_[i]->say(i == 2 ? "move broadcast 0 3" : "move broadcast 0");
  }
  EXPECT_EQ(peers_[2]->hear(), "at 3");
  peers_[2]->send_signal(SIGSTOP);
  const auto stopped = std::move(peers_[2]);
  peers_.pop_back();
  std::vector<std::string> answers;
  for (auto& peer : peers_) answers.push_back(peer->hear());
  for (const std::string& answer : answers) EXPECT_EQ(answer.substr(0, 7), "failed ") << answer;
  join(2);
  if (HasFatalFailure()) return;
  expect_all("move broadcast " + std::to_string(first_missing(answers)), "done");
  expect_version(5);
  stopped->kill();
  publish("p2p", 6);
}

TEST_F(NcclProcessesTest, ManyVersionsTakeNoMoreMemory) {
  start(1);
  if (HasFatalFailure()) return;
  join(1);
  if (HasFatalFailure()) return;
  const auto free_bytes = [&](std::size_t peer) {
    const std::string answer = ask(peer, "memory");
    return std::stoll(answer.substr(answer.find(' ') + 1));
  };
  for (int seed = 1; seed <= 3; ++seed) publish(seed % 2 == 0 ? "p2p" : "broadcast", seed);
  const auto before = free_bytes(0);
  for (int seed = 4; seed <= 40; ++seed) publish(seed % 2 == 0 ? "p2p" : "broadcast", seed);
  EXPECT_GE(free_bytes(0), before - (4 << 20));
  expect_all("leave", "left");
}

}  // namespace
}  // namespace weightcast
