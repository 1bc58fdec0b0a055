// The doctor on a host: shared memory, leftovers, the meeting place, the configuration.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>

#include <weightcast/keys.hpp>

#include "base/unique_fd.hpp"
#include "integration/doctor_fixture.hpp"
#include "protocol/message.hpp"
#include "stream/rendezvous.hpp"
#include "support/child_process.hpp"
#include "support/small_shm.hpp"

namespace weightcast {
namespace {

namespace fs = std::filesystem;
using test::ChildProcess;
using test::Doctor;
using test::Report;
using test::Talk;

/// A /dev/shm of this program's own, where that is permitted: on the host's others would leave and
/// sweep what is counted here.
class OwnSharedMemory : public ::testing::Environment {
  void SetUp() override {
    if (const std::string why = test::enter_small_shm("size=256m"); !why.empty()) {
      GTEST_LOG_(INFO) << "the host's /dev/shm is used: " << why;
    }
  }
};
[[maybe_unused]] const auto* const kOwnSharedMemory =
    ::testing::AddGlobalTestEnvironment(new OwnSharedMemory);

/// A process that leaves a slab of two slots behind when it is killed.
std::function<int(const Talk&)> owner_of(const staging::ObjectOwner& owner) {
  return [owner](const Talk& talk) {
    const auto slab = staging::Slab::create({owner, 2, 4096});
    talk.say(slab ? (*slab)->object_name(0) : slab.status().to_string());
    talk.hear();
    return 0;
  };
}

/// A trainer's rank 0 as far as its meeting place goes.
std::function<int(const Talk&)> coordinator_at(const std::string& place, std::uint32_t protocol) {
  return [place, protocol](const Talk& talk) {
    const auto claimed = stream::Rendezvous::claim(place, false);
    const Status status = claimed ? (*claimed)->announce(protocol) : claimed.status();
    talk.say(status.to_string());
    talk.hear();
    return 0;
  };
}

TEST_F(Doctor, FindsNothingWrongOnAHostThatIsFine) {
  const Report report = doctor();

  EXPECT_EQ(report.code, 0) << report.text;
  for (const char* subject : {"versions", "configuration", "host", "shared memory", "limits",
                              "keys", "meeting place", "tcp", "cuda_ipc", "nccl", "coordinator"}) {
    EXPECT_NE(report.text.find(std::string("\"") + subject + "\""), std::string::npos) << subject;
  }
  EXPECT_TRUE(fs::is_empty(base_.path())) << "it made something";
}

TEST_F(Doctor, PrintsTextWithRemedies) {
  auto line = test::doctor_line(base_.path(), job, {"--weightcast.slots=99"});
  std::erase(line, "--json");
  const auto ended = test::run_program(line, output_.path());
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.out.find("error    configuration: trainer: option slots = \"99\""),
            std::string::npos)
      << ended.out;
  EXPECT_NE(ended.out.find("\n         -> correct the value there"), std::string::npos);
  EXPECT_NE(ended.out.find("\n1 error, "), std::string::npos);
}

TEST_F(Doctor, APolicyThatDoesNotFitIsAnError) {
  // Larger than any machine's memory.
  const Report report = doctor({"--policy-bytes=4000TB"});
  EXPECT_TRUE(report.has("error", "shared memory",
                         {"/dev/shm", "a policy of 3638 TiB", "4 slots", "does not fit"}))
      << report.text;
}

TEST_F(Doctor, FiveFaultsAtOnceAreFoundAndExplained) {
  // Wrong keys: a secret of another set.
  const std::string keys = output_.path() + "/a";
  const std::string others = output_.path() + "/b";
  ASSERT_TRUE(make_keys(keys));
  ASSERT_TRUE(make_keys(others));
  fs::copy_file(others + "/engine.secret", keys + "/engine.secret",
                fs::copy_options::overwrite_existing);
  // An unreachable coordinator: nobody listens at a port that was ours until now.
  std::ofstream(output_.path() + "/job.toml")
      << "[worker]\ncoordinator = \"127.0.0.1:1\"\nkeys = \"" << keys << "\"\n";
  // Mismatched versions: the trainer of this host speaks another protocol.
  const auto place = stream::meeting_place(base_.path(), "", job, "policy");
  ASSERT_TRUE(place) << place.status().to_string();
  ChildProcess trainer(coordinator_at(*place, 99));
  ASSERT_EQ(trainer.hear(), "ok");
  const auto line = test::doctor_line(base_.path(), job,
                                      {"--side=both", "--config=" + output_.path() + "/job.toml"});

  // Tiny shared memory and stale slots in it.
  ChildProcess machine([&](const Talk& talk) {
    const std::string why = test::enter_small_shm("size=1m");
    if (!why.empty()) talk.say(why);
    {
      ChildProcess doomed(owner_of(owner()));
      if (doomed.hear().find("weightcast.") != 0) return 3;
      doomed.kill();
    }
    if (why.empty()) talk.say("small");
    test::run_program(line, output_.path());
    staging::sweep(job);
    return 0;
  });
  const std::string said = machine.hear();
  ASSERT_EQ(machine.wait(), 0) << said;
  const Report report = test::read_report({1, test::text_of(output_.path() + "/out"), ""});

  if (said == "small") {
    EXPECT_TRUE(report.has("error", "shared memory",
                           {"size=1024k", "of 1 MiB", "even an empty policy takes 4",
                            "does not fit", "--shm-size=", "remount,size="}))
        << report.text;
  } else {
    // Where no mount is permitted the machine's own is too small for a policy that is large enough.
    const Report large = doctor({"--policy-bytes=4000TB"});
    EXPECT_TRUE(large.has("error", "shared memory", {"does not fit", "slots"}))
        << said << large.text;
  }
  EXPECT_TRUE(report.has("warning", "stale slots",
                         {"3 objects of dead trainers", "." + job + ".policy.", "doctor --clean"}))
      << report.text;
  EXPECT_TRUE(report.has("error", "keys", {"engine.secret", "do not belong together", "copy both"}))
      << report.text;
  EXPECT_TRUE(report.has("error", "coordinator",
                         {"127.0.0.1:1", "cannot be reached: Connection refused", "listen = "}))
      << report.text;
  EXPECT_TRUE(
      report.has("error", "versions",
                 {"protocol version 99", "speaks " + std::to_string(protocol::kProtocolVersion),
                  "install the same weightcast"}))
      << report.text;
}

TEST_F(Doctor, CleansWhatTheDeadLeftAndNobodyHolds) {
  ChildProcess doomed(owner_of(owner(1)));
  const std::string held_name = doomed.hear();
  ASSERT_EQ(held_name.find("weightcast."), 0u) << held_name;
  ChildProcess other(owner_of(owner(2)));
  ASSERT_EQ(other.hear().find("weightcast."), 0u);
  const auto alive = make_slab(4096, 2, 3);
  doomed.kill();
  other.kill();
  const base::UniqueFd reader(::open(("/dev/shm/" + held_name).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::flock(reader.get(), LOCK_SH | LOCK_NB), 0);
  ASSERT_EQ(objects().size(), 9u);

  const Report before = doctor();
  EXPECT_TRUE(before.has("warning", "stale slots", {"4 objects", "doctor --clean"})) << before.text;
  EXPECT_TRUE(before.has("note", "stale slots", {"1 slots", "still read"})) << before.text;
  EXPECT_EQ(objects().size(), 9u) << "it removed something unasked";

  const Report cleaned = doctor({"--clean"});
  EXPECT_TRUE(cleaned.has("note", "stale slots", {"removed 4 objects", ".r0.2.anchor", ".r0.2.s0"}))
      << cleaned.text;
  // The living one's three, the held slot, and the anchor that says that its owner is dead.
  EXPECT_EQ(objects().size(), 5u);
  EXPECT_TRUE(cleaned.has("note", "stale slots", {"1 slots", "still read"})) << cleaned.text;

  const Report again = doctor({"--clean"});
  EXPECT_FALSE(again.has("note", "stale slots", {"removed"})) << again.text;
  EXPECT_EQ(objects().size(), 5u);
  ::flock(reader.get(), LOCK_UN);
  EXPECT_TRUE(doctor({"--clean"}).has("note", "stale slots", {"removed 2 objects"}));
  EXPECT_EQ(objects().size(), 3u);
}

TEST_F(Doctor, CleansMeetingPlacesOfTheDeadAlone) {
  const auto dead_place = stream::meeting_place(base_.path(), "", job, "policy");
  const auto place = stream::meeting_place(base_.path(), "", job, "other");
  ASSERT_TRUE(dead_place && place);
  ChildProcess doomed(coordinator_at(*dead_place, protocol::kProtocolVersion));
  ASSERT_EQ(doomed.hear(), "ok");
  ChildProcess living(coordinator_at(*place, protocol::kProtocolVersion));
  ASSERT_EQ(living.hear(), "ok");
  doomed.kill();
  std::ofstream(*dead_place + "/notes") << "of the user";

  const Report before = doctor();
  EXPECT_TRUE(
      before.has("warning", "stale meeting places", {*dead_place, "coordinator", "--clean"}))
      << before.text;
  EXPECT_FALSE(before.has("warning", "stale meeting places", {*place})) << before.text;
  EXPECT_TRUE(before.has("error", "coordinator", {*dead_place, "is dead", "start the trainer"}))
      << before.text;

  const Report cleaned = doctor({"--clean"});
  EXPECT_TRUE(cleaned.has("note", "stale meeting places", {"removed", *dead_place}))
      << cleaned.text;
  EXPECT_FALSE(fs::exists(*dead_place + "/coordinator"));
  EXPECT_TRUE(fs::exists(*dead_place + "/notes"));
  EXPECT_TRUE(fs::exists(*dead_place + "/coordinator.lock")) << "it remembers the newest run";
  EXPECT_TRUE(fs::exists(*place + "/coordinator")) << "it belongs to a living trainer";
  EXPECT_TRUE(doctor({"--clean"}).has("ok", "stale meeting places", {"none"}));
}

TEST_F(Doctor, CleanFollowsNoNamesThatOthersMadeOrThatAreNoFilesOfATrainer) {
  const auto place = stream::meeting_place(base_.path(), "", job, "policy");
  ASSERT_TRUE(place);
  const std::string precious = output_.path() + "/policy";
  ASSERT_EQ(::mkdir(precious.c_str(), 0700), 0);
  std::ofstream(precious + "/coordinator") << "of the user";
  fs::create_directory_symlink(output_.path(), base_.path() + "/linked-job");
  fs::create_directory_symlink(precious, base_.path() + "/" + job + "/linked");
  fs::create_symlink(precious + "/coordinator", *place + "/coordinator");

  doctor({"--clean"});
  EXPECT_TRUE(fs::exists(precious + "/coordinator"));
  EXPECT_TRUE(fs::is_symlink(*place + "/coordinator")) << "no trainer makes links";

  fs::remove(*place + "/coordinator");
  fs::copy_file(precious + "/coordinator", *place + "/coordinator");
  ::chmod((base_.path() + "/" + job).c_str(), 0777);
  doctor({"--clean"});
  EXPECT_TRUE(fs::exists(*place + "/coordinator")) << "others may have put it there";
}

TEST_F(Doctor, AMeetingPlaceThatOthersMayChangeIsAnError) {
  const auto place = stream::meeting_place(base_.path(), "", job, "policy");
  ASSERT_TRUE(place);
  ASSERT_EQ(::chmod(place->c_str(), 0777), 0);
  const Report report = doctor();
  EXPECT_TRUE(report.has("error", "meeting place", {*place, "open to other users", "chmod go="}))
      << report.text;
}

TEST_F(Doctor, AnAnnouncementThatIsNoneIsAnError) {
  const auto place = stream::meeting_place(base_.path(), "", job, "policy");
  ASSERT_TRUE(place);
  std::ofstream(*place + "/coordinator") << std::string(3000, '\x01');
  ::chmod((*place + "/coordinator").c_str(), 0600);
  const Report report = doctor();
  EXPECT_TRUE(report.has("error", "coordinator", {"expected a coordinator's announcement"}))
      << report.text;
}

TEST_F(Doctor, ABadConfigurationIsExplainedAndTheRestStillLookedAt) {
  const Report unknown = doctor({"--weightcast.slotz=3"});
  EXPECT_TRUE(
      unknown.has("error", "configuration", {"unknown key \"slotz\"", "did you mean slots"}))
      << unknown.text;
  EXPECT_TRUE(unknown.has("ok", "host", {"identity"}));
  const Report apart = doctor({"--config=" + [&] {
    const std::string file = output_.path() + "/apart.toml";
    std::ofstream(file) << "[trainer]\npolicy = \"actor\"\n";
    return file;
  }()});
  EXPECT_TRUE(apart.has("error", "configuration",
                        {"the trainer has policy = \"actor\"", "they do not meet"}))
      << apart.text;
}

}  // namespace
}  // namespace weightcast
