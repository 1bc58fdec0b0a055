#include "stream/rendezvous.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/private_directory.hpp"
#include "support/child_process.hpp"
#include "support/private_place.hpp"

namespace weightcast::stream {
namespace {

namespace fs = std::filesystem;
using test::ChildProcess;
using test::Talk;

class RendezvousTest : public testing::Test {
 protected:
  std::string place() {
    auto made = meeting_place(base_.path(), "", "job", "policy");
    EXPECT_TRUE(made.is_ok()) << made.status().message();
    return made ? *made : std::string();
  }

  static void write_file(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
    ::chmod(path.c_str(), 0600);
  }

  /// What a run that was killed leaves.
  static void leave_socket(const std::string& path) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    ASSERT_LT(path.size(), sizeof address.sun_path);
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ::close(fd);
  }

  static void expect_refusal(const Status& status, Code code, const char* in_text) {
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(in_text), std::string::npos) << status.message();
  }

  test::PrivatePlace base_;
};

/// Claims, announces, and then does as it is told.
int coordinator(const Talk& talk, const std::string& place) {
  auto claimed = Rendezvous::claim(place, false);
  if (!claimed) return 1;
  if (!(*claimed)->announce(1)) return 2;
  talk.say("claimed");
  while (true) {
    const std::string order = talk.hear();
    if (order == "superseded?") {
      talk.say((*claimed)->superseded() ? "yes" : "no");
    } else if (order == "announce") {
      talk.say((*claimed)->announce(1).to_string());
    } else if (order == "end") {
      claimed->reset();
      return 0;
    } else {
      return 3;
    }
  }
}

TEST_F(RendezvousTest, ThePlaceIsMadeForTheOwnerAlone) {
  const std::string path = place();

  EXPECT_EQ(path, base_.path() + "/job/policy");
  for (const std::string& part : {base_.path(), base_.path() + "/job", path}) {
    EXPECT_EQ(fs::status(part).permissions(), fs::perms::owner_all) << part;
  }
  EXPECT_EQ(place(), path);  // whoever comes second
}

TEST_F(RendezvousTest, TheRuntimeDirectoryIsUsedWhereNoneIsGiven) {
  const auto made = meeting_place("", base_.path(), "job", "policy");
  ASSERT_TRUE(made.is_ok()) << made.status().message();
  EXPECT_EQ(*made, base_.path() + "/weightcast/job/policy");
}

TEST_F(RendezvousTest, APlaceOpenToOthersIsRefused) {
  place();
  for (const char* part : {"", "/job", "/job/policy"}) {
    const std::string path = base_.path() + part;
    ASSERT_EQ(::chmod(path.c_str(), 0750), 0);
    expect_refusal(meeting_place(base_.path(), "", "job", "policy").status(), Code::kDenied,
                   "chmod go=");
    ASSERT_EQ(::chmod(path.c_str(), 0700), 0);
  }
}

TEST_F(RendezvousTest, ALinkOrAFileInsteadOfADirectoryIsRefused) {
  fs::create_directory(base_.path() + "/elsewhere");
  ::chmod((base_.path() + "/elsewhere").c_str(), 0700);
  fs::create_directory_symlink(base_.path() + "/elsewhere", base_.path() + "/job");
  expect_refusal(meeting_place(base_.path(), "", "job", "policy").status(), Code::kDenied, "a link");
  fs::remove(base_.path() + "/job");
  write_file(base_.path() + "/job", "");
  expect_refusal(meeting_place(base_.path(), "", "job", "policy").status(), Code::kDenied, "a file");
}

TEST_F(RendezvousTest, SomebodyElsesDirectoryIsRefused) {
  std::string theirs = "/usr";
  if (::geteuid() == 0) {
    theirs = base_.path() + "/theirs";
    ASSERT_EQ(::mkdir(theirs.c_str(), 0700), 0);
    ASSERT_EQ(::chown(theirs.c_str(), 65534, 65534), 0);
  }
  expect_refusal(meeting_place(theirs, "", "job", "policy").status(), Code::kDenied, "belong");
}

TEST_F(RendezvousTest, BadNamesAndPathsAreRefused) {
  for (const std::string& name : {std::string(), std::string(".."), std::string("a/b"),
                                  std::string("a b"), std::string(65, 'a')}) {
    expect_refusal(meeting_place(base_.path(), "", name, "p").status(), Code::kInvalid, "job name");
    expect_refusal(meeting_place(base_.path(), "", "j", name).status(), Code::kInvalid, "policy");
  }
  expect_refusal(meeting_place("relative", "", "j", "p").status(), Code::kInvalid, "begin with");
  expect_refusal(meeting_place("/a\nb", "", "j", "p").status(), Code::kInvalid, "begin with");
  expect_refusal(meeting_place(base_.path() + "/no/such", "", "j", "p").status(), Code::kNotFound,
                 "directory above");
  expect_refusal(meeting_place("/" + std::string(80, 'd'), "", "j", "p").status(), Code::kInvalid,
                 "shorter directory");
}

TEST_F(RendezvousTest, ASecondTrainerIsRefusedAndToldWhoIsThere) {
  const std::string path = place();
  auto first = Rendezvous::claim(path, false);
  ASSERT_TRUE(first.is_ok()) << first.status().message();

  const auto second = Rendezvous::claim(path, false);

  expect_refusal(second.status(), Code::kExists, "policy 'policy' of job 'job'");
  expect_refusal(second.status(), Code::kExists,
                 ("pid " + std::to_string(::getpid()) + ")").c_str());
  EXPECT_FALSE((*first)->superseded());
}

TEST_F(RendezvousTest, RunsRiseFromStartToStart) {
  const std::string path = place();
  weightcast::Run last;
  for (int i = 0; i < 5; ++i) {
    auto claimed = Rendezvous::claim(path, false);
    ASSERT_TRUE(claimed.is_ok()) << claimed.status().message();
    EXPECT_GT((*claimed)->run().started_us, last.started_us);
    last = (*claimed)->run();
  }
  // As after a clock that was set back.
  write_file(path + "/coordinator.lock", "run=8000000000000000.5\npid=1\n");
  auto claimed = Rendezvous::claim(path, false);
  ASSERT_TRUE(claimed.is_ok()) << claimed.status().message();
  EXPECT_EQ((*claimed)->run().started_us, 8'000'000'000'000'001u);
}

TEST_F(RendezvousTest, ADamagedLockFileIsNoObstacleButAnImpossibleRunIs) {
  const std::string path = place();
  write_file(path + "/coordinator.lock", "run=-1.x\n" + std::string(1000, 'x'));
  EXPECT_TRUE(Rendezvous::claim(path, false).is_ok());
  write_file(path + "/coordinator.lock", "run=18446744073709551615.5\npid=1\n");
  expect_refusal(Rendezvous::claim(path, false).status(), Code::kInvalid, "remove that file");
}

TEST_F(RendezvousTest, AnAnnouncementIsReadAsItWasWrittenAndGoesWithItsRun) {
  const std::string path = place();
  expect_refusal(read_announcement(path).status(), Code::kNotFound, "coordinator");
  auto claimed = Rendezvous::claim(path, false);
  ASSERT_TRUE(claimed.is_ok()) << claimed.status().message();
  ASSERT_TRUE((*claimed)->announce(7).is_ok());

  const auto read = read_announcement(path);

  ASSERT_TRUE(read.is_ok()) << read.status().message();
  EXPECT_EQ(read->protocol, 7u);
  EXPECT_EQ(read->endpoint, (*claimed)->endpoint());
  EXPECT_EQ(read->run, (*claimed)->run());
  EXPECT_EQ(read->pid, ::getpid());
  EXPECT_EQ(read->endpoint, "ipc://" + path + "/c-" + std::to_string(read->run.started_us) + "-" +
                                std::to_string(read->run.tie) + ".sock");
  const std::string socket = read->endpoint.substr(std::strlen("ipc://"));
  leave_socket(socket);
  claimed->reset();
  EXPECT_EQ(read_announcement(path).status().code(), Code::kNotFound);
  EXPECT_FALSE(fs::exists(fs::symlink_status(socket)));
}

TEST_F(RendezvousTest, TheEndpointLiesInTheReadersOwnPath) {
  // The coordinator may see the same directory under another path, as from within a container.
  const std::string path = place();
  write_file(path + "/coordinator",
             "protocol=1\nendpoint=ipc:///mnt/there/c-12-34.sock\nrun=12.34\npid=5\n");
  const auto read = read_announcement(path);
  ASSERT_TRUE(read.is_ok()) << read.status().message();
  EXPECT_EQ(read->endpoint, "ipc://" + path + "/c-12-34.sock");
}

TEST_F(RendezvousTest, HostileAnnouncementsAreRefused) {
  const std::string path = place();
  const std::string file = path + "/coordinator";
  const std::string good = "protocol=1\nendpoint=ipc:///x/c-12-34.sock\nrun=12.34\npid=5\n";
  write_file(file, good);
  ASSERT_TRUE(read_announcement(path).is_ok());
  for (const std::string& text : {
           std::string(), good.substr(0, good.size() - 1), good + "more=1\n", "\n" + good,
           std::string("protocol=1\nrun=12.34\nendpoint=ipc:///x/c-12-34.sock\npid=5\n"),
           std::string("protocol=1\nendpoint=tcp://evil:1\nrun=12.34\npid=5\n"),
           std::string("protocol=1\nendpoint=ipc:///x/c-12-35.sock\nrun=12.34\npid=5\n"),
           std::string("protocol=1\nendpoint=ipc:///x/../../evil\nrun=12.34\npid=5\n"),
           std::string("protocol=-1\nendpoint=ipc:///x/c-12-34.sock\nrun=12.34\npid=5\n"),
           std::string("protocol=4294967296\nendpoint=ipc:///x/c-12-34.sock\nrun=12.34\npid=5\n"),
           std::string("protocol=1\nendpoint=ipc:///x/c-12-34.sock\nrun=012.34\npid=5\n"),
           std::string("protocol=1\nendpoint=ipc:///x/c-12-34.sock\nrun=12.34\npid=99999999999\n"),
           std::string("protocol=1\nendpoint=ipc:///x/c-12-34.sock\nrun=12\npid=5\n"),
           std::string(100'000, 'x'), std::string(1000, '\0'),
       }) {
    write_file(file, text);
    expect_refusal(read_announcement(path).status(), Code::kInvalid, "remove it");
  }
}

TEST_F(RendezvousTest, AnAnnouncementThatIsNoFileOfOursIsRefusedWithoutWaiting) {
  const std::string path = place();
  const std::string file = path + "/coordinator";
  write_file(path + "/elsewhere", "protocol=1\nendpoint=ipc:///x/c-12-34.sock\nrun=12.34\npid=5\n");
  fs::create_symlink(path + "/elsewhere", file);
  EXPECT_EQ(read_announcement(path).status().code(), Code::kDenied);
  fs::remove(file);
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  expect_refusal(read_announcement(path).status(), Code::kDenied, "ordinary file");
  fs::remove(file);
  fs::create_directory(file);
  EXPECT_EQ(read_announcement(path).status().code(), Code::kDenied);
  fs::remove(file);
  fs::rename(path + "/elsewhere", file);
  ASSERT_TRUE(read_announcement(path).is_ok());
  ::chmod(file.c_str(), 0620);
  EXPECT_EQ(read_announcement(path).status().code(), Code::kDenied);
}

TEST_F(RendezvousTest, SocketsOfDeadRunsGoAndOtherFilesStay) {
  const std::string path = place();
  leave_socket(path + "/c-12-34.sock");
  leave_socket(path + "/other.sock");
  write_file(path + "/c-56-78.sock", "a file of somebody's");

  auto claimed = Rendezvous::claim(path, false);

  ASSERT_TRUE(claimed.is_ok()) << claimed.status().message();
  EXPECT_FALSE(fs::exists(fs::symlink_status(path + "/c-12-34.sock")));
  EXPECT_TRUE(fs::exists(fs::symlink_status(path + "/other.sock")));
  EXPECT_TRUE(fs::exists(path + "/c-56-78.sock"));
}

TEST_F(RendezvousTest, AKilledTrainersPlaceIsFree) {
  const std::string path = place();
  ChildProcess trainer([&](const Talk& talk) { return coordinator(talk, path); });
  ASSERT_EQ(trainer.hear(), "claimed");
  const auto before = read_announcement(path);
  ASSERT_TRUE(before.is_ok()) << before.status().message();
  EXPECT_EQ(Rendezvous::claim(path, false).status().code(), Code::kExists);

  trainer.kill();
  auto next = Rendezvous::claim(path, false);

  ASSERT_TRUE(next.is_ok()) << next.status().message();
  EXPECT_GT((*next)->run(), before->run);
  ASSERT_TRUE((*next)->announce(1).is_ok());
  EXPECT_EQ(read_announcement(path)->run, (*next)->run());
}

TEST_F(RendezvousTest, AStoppedTrainerKeepsItsPlaceUntilItIsTakenOver) {
  const std::string path = place();
  ChildProcess trainer([&](const Talk& talk) { return coordinator(talk, path); });
  ASSERT_EQ(trainer.hear(), "claimed");
  trainer.stop();
  EXPECT_EQ(Rendezvous::claim(path, false).status().code(), Code::kExists);

  auto next = Rendezvous::claim(path, true);
  ASSERT_TRUE(next.is_ok()) << next.status().message();
  ASSERT_TRUE((*next)->announce(1).is_ok());
  EXPECT_EQ(Rendezvous::claim(path, false).status().code(), Code::kExists);
  EXPECT_FALSE((*next)->superseded());

  // The former coordinator goes on: it sees that it no longer counts, and its end harms nothing.
  trainer.go_on();
  trainer.say("superseded?");
  EXPECT_EQ(trainer.hear(), "yes");
  trainer.say("announce");
  EXPECT_EQ(trainer.hear().substr(0, 5), "stale");
  trainer.say("end");
  EXPECT_EQ(trainer.wait(), 0);
  const auto announced = read_announcement(path);
  ASSERT_TRUE(announced.is_ok()) << announced.status().message();
  EXPECT_EQ(announced->run, (*next)->run());
  EXPECT_FALSE((*next)->superseded());
}

TEST_F(RendezvousTest, OfManyTrainersThatStartAtOnceOneClaimsThePlace) {
  const std::string path = place();
  std::array<std::unique_ptr<ChildProcess>, 6> trainers;
  for (auto& trainer : trainers) {
    trainer = std::make_unique<ChildProcess>([&](const Talk& talk) {
      talk.hear();
      auto claimed = Rendezvous::claim(path, false);
      talk.say(claimed ? "claimed" : code_name(claimed.status().code()) == "exists" ? "exists" : "?");
      talk.hear();  // holds it until all have tried
      return 0;
    });
  }
  for (auto& trainer : trainers) trainer->say("go");

  int claimed = 0;
  int refused = 0;
  for (auto& trainer : trainers) {
    const std::string answer = trainer->hear();
    claimed += answer == "claimed" ? 1 : 0;
    refused += answer == "exists" ? 1 : 0;
  }

  EXPECT_EQ(claimed, 1);
  EXPECT_EQ(refused, 5);
}

TEST_F(RendezvousTest, AForkedChildDoesNotKeepThePlace) {
  const std::string path = place();
  auto claimed = Rendezvous::claim(path, false);
  ASSERT_TRUE(claimed.is_ok()) << claimed.status().message();
  ChildProcess child([](const Talk& talk) {
    talk.hear();
    return 0;
  });
  claimed->reset();
  EXPECT_TRUE(Rendezvous::claim(path, false).is_ok());
}

TEST_F(RendezvousTest, AClaimDoesNotWaitForeverForAnother) {
  const std::string path = place();
  const auto busy = base::lock_private_directory(path);
  ASSERT_TRUE(busy.is_ok());
  expect_refusal(Rendezvous::claim(path, false).status(), Code::kUnavailable, "try again");
}

}  // namespace
}  // namespace weightcast::stream
