// Places that cannot be used: shared memory, the meeting place, options and the environment.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "integration/local_job.hpp"
#include "support/child_process.hpp"
#include "support/small_shm.hpp"

namespace weightcast {
namespace {

namespace fs = std::filesystem;
using test::ChildProcess;
using test::has;
using test::soon;
using test::Talk;
using test::ToyPolicy;
using namespace std::chrono_literals;

class Places : public test::LocalJob {
 protected:
  /// Opens a publisher where /dev/shm is a small one of its own. @return what open() says
  std::string open_in_small_shm(const std::string& options, unsigned long flags,
                                std::int64_t scale) const {
    ChildProcess child([&](const Talk& talk) {
      if (const auto why = test::enter_small_shm(options, flags); !why.empty()) {
        talk.say("not permitted: " + why);
        return 0;
      }
      ToyPolicy policy(scale);
      const auto opened = Publisher::open(publisher_options(), policy.lister());
      const auto left = test::shm_objects("." + job + ".").size();
      talk.say((opened ? "opened" : opened.status().to_string()) +
               (opened || left == 0 ? "" : "; objects left behind"));
      return 0;
    });
    return child.hear();
  }

  std::string meeting_place() const { return place.path() + "/" + job + "/policy"; }
  Status open_status() const {
    ToyPolicy policy;
    return Publisher::open(publisher_options(), policy.lister()).status();
  }
};

TEST_F(Places, SharedMemoryThatIsTooSmallIsRefusedAtStart) {
  const std::string said = open_in_small_shm("size=1m", 0, 1);
  if (has(said, "not permitted")) GTEST_SKIP() << said;
  EXPECT_TRUE(has(said, "exhausted:")) << said;
  EXPECT_TRUE(has(said, "/dev/shm")) << said;
  EXPECT_FALSE(has(said, "left behind")) << said;
}

TEST_F(Places, SharedMemoryThatFillsUpOnTheWayIsRefusedAtStart) {
  // Room for some of the four slots.
  const std::string said = open_in_small_shm("size=6m", 0, 10);
  if (has(said, "not permitted")) GTEST_SKIP() << said;
  EXPECT_TRUE(has(said, "exhausted:")) << said;
  EXPECT_FALSE(has(said, "left behind")) << said;
}

TEST_F(Places, ReadOnlySharedMemoryIsRefusedAtStart) {
  const std::string said = open_in_small_shm("size=64m", MS_RDONLY, 1);
  if (has(said, "not permitted")) GTEST_SKIP() << said;
  EXPECT_TRUE(has(said, "denied:")) << said;
  EXPECT_TRUE(has(said, "/dev/shm")) << said;
}

TEST_F(Places, EnoughSharedMemoryIsEnough) {
  const std::string said = open_in_small_shm("size=64m", 0, 1);
  if (has(said, "not permitted")) GTEST_SKIP() << said;
  EXPECT_EQ(said, "opened");
}

TEST_F(Places, ADirectoryThatOthersCanEnterIsRefusedOnBothSides) {
  ASSERT_EQ(::chmod(place.path().c_str(), 0755), 0);

  expect_refusal(open_status(), Code::kDenied, {place.path(), "chmod go="});
  expect_refusal(Subscriber::open(subscriber_options("one")).status(), Code::kDenied,
                 {place.path(), "chmod go="});
}

TEST_F(Places, APartThatIsALinkOrAFileIsRefused) {
  fs::create_directory_symlink("/tmp", place.path() + "/" + job);
  expect_refusal(open_status(), Code::kDenied, {place.path() + "/" + job});
  fs::remove(place.path() + "/" + job);
  std::ofstream(place.path() + "/" + job) << "a file";
  EXPECT_EQ(open_status().code(), Code::kDenied);
}

TEST_F(Places, FilesThatAreNotOursAreLeftAloneAndNamed) {
  ASSERT_TRUE(Subscriber::open(subscriber_options("one")));  // makes the place
  fs::create_directory(meeting_place() + "/coordinator");
  expect_refusal(open_status(), Code::kDenied, {meeting_place() + "/coordinator", "remove"});
  EXPECT_TRUE(fs::is_directory(meeting_place() + "/coordinator"));
  fs::remove(meeting_place() + "/coordinator");

  fs::remove(meeting_place() + "/coordinator.lock");
  fs::create_symlink("/etc/passwd", meeting_place() + "/coordinator.lock");
  expect_refusal(open_status(), Code::kDenied, {"coordinator.lock", "remove it"});
}

TEST_F(Places, ASecondTrainerIsRefusedAndTheFirstGoesOn) {
  ToyPolicy policy;
  Publisher first = open(policy);
  Subscriber engine = follow("one");

  expect_refusal(open_status(), Code::kExists,
                 {"another trainer (pid " + std::to_string(::getpid()) + ")", job,
                  "choose another job name, or take over"});
  EXPECT_TRUE(bring(first, policy, 1));
}

TEST_F(Places, AnAnnouncementThatIsNoneIsNotFollowed) {
  Subscriber engine = follow("one");
  {
    std::ofstream(meeting_place() + "/coordinator") << "endpoint=tcp://example.org:80\n";
    ASSERT_EQ(::chmod((meeting_place() + "/coordinator").c_str(), 0600), 0);
  }
  expect_refusal(engine.acquire(Clock::now() + 100ms).status(), Code::kDeadline,
                 {"no trainer of policy policy of job " + job, "is it running"});

  ToyPolicy policy;
  Publisher publisher = open(policy);
  EXPECT_TRUE(bring(publisher, policy, 1));
}

// ---- options and the environment ------------------------------------------------------------

TEST_F(Places, WrongOptionsAreNamedWithWhatIsAllowed) {
  struct Case {
    std::function<void(PublisherOptions&)> set;
    std::vector<std::string> words;
  };
  const Case cases[] = {
      {[](auto& o) { o.job = "a/b"; }, {"job", "a/b", "A-Z"}},
      {[](auto& o) { o.policy = ""; }, {"policy", "1 to 64 characters"}},
      {[](auto& o) { o.world_size = 0; }, {"world_size = 0", "1 to"}},
      {[](auto& o) { o.rank = 2, o.world_size = 2; }, {"rank = 2", "below world_size = 2"}},
      {[](auto& o) { o.slots = 1; }, {"slots = 1", "2 to 16"}},
      {[](auto& o) { o.slots = 17; }, {"slots = 17", "2 to 16"}},
      {[](auto& o) { o.slot_bytes = 100; }, {"slot_bytes = 100", "raise it or leave it 0"}},
      {[](auto& o) { o.copy_threads = 0; }, {"copy_threads = 0", "1 to 64"}},
      {[](auto& o) { o.dtype = DType::kI32; }, {"dtype = i32", "f64, f32, f16 or bf16"}},
      {[](auto& o) { o.launch = std::string(129, 'x'); }, {"launch", "at most 128"}},
      {[](auto& o) { o.stall = -1ms; }, {"stall = -1ms", "0 to 1h"}},
      {[](auto& o) { o.heartbeat = 0ms; }, {"heartbeat = 0", "1ms to"}},
      {[](auto& o) { o.member_timeout = 1ms; }, {"member_timeout = 1ms", "3ms to"}},
      {[](auto& o) { o.attempt_timeout = 1ms; }, {"attempt_timeout = 1ms", "one heartbeat"}},
      {[](auto& o) { o.directory = "relative"; }, {"directory", "relative", "WEIGHTCAST_DIR"}},
      {[](auto& o) { o.directory = "/" + std::string(100, 'd'); }, {"shorter directory"}},
  };
  ToyPolicy policy;
  for (const Case& wrong : cases) {
    PublisherOptions options = publisher_options();
    wrong.set(options);
    expect_refusal(Publisher::open(options, policy.lister()).status(), Code::kInvalid, wrong.words);
  }

  SubscriberOptions options = subscriber_options("no spaces");
  expect_refusal(Subscriber::open(options).status(), Code::kInvalid, {"name", "no spaces"});
  options = subscriber_options("one");
  options.copy_threads = 65;
  expect_refusal(Subscriber::open(options).status(), Code::kInvalid, {"copy_threads = 65"});
  options = subscriber_options("one");
  options.member_timeout = 10ms;
  expect_refusal(Subscriber::open(options).status(), Code::kInvalid, {"three heartbeats"});
}

/// Sets a variable while it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

TEST_F(Places, WrongEnvironmentVariablesAreNamedWithWhatIsAllowed) {
  struct Case {
    const char* name;
    const char* value;
    const char* allowed;
  };
  for (const Case& wrong : {Case{"WEIGHTCAST_MODE", "gossip", "expected broadcast or p2p"},
                            Case{"WEIGHTCAST_STALL_MS", "soon", "expected whole ms, 0 to 1h"},
                            Case{"WEIGHTCAST_STALL_MS", "-5", "expected whole ms, 0 to 1h"},
                            Case{"WEIGHTCAST_LOG", "loud", "debug, info, warn, error or off"},
                            Case{"WORLD_SIZE", "0", "from 1 to"},
                            Case{"RANK", "1x", "from 0 to"}}) {
    const Variable variable(wrong.name, wrong.value);
    expect_refusal(with_environment(PublisherOptions()).status(), Code::kInvalid,
                   {wrong.name, std::string("\"") + wrong.value + "\"", wrong.allowed});
  }
  {
    const Variable rank("RANK", "1");
    expect_refusal(with_environment(PublisherOptions()).status(), Code::kInvalid,
                   {"RANK and WORLD_SIZE", "torchrun sets both"});
  }
  const Variable activation("WEIGHTCAST_ACTIVATION", "teleport");
  expect_refusal(with_environment(SubscriberOptions()).status(), Code::kInvalid,
                 {"\"teleport\" (environment variable WEIGHTCAST_ACTIVATION)", "auto, view, flip, staged or serial"});
}

TEST_F(Places, TheEnvironmentComesBeforeTheProgramsOwnValues) {
  const Variable variables[] = {{"WEIGHTCAST_JOB", "from-environment"},
                                {"WEIGHTCAST_STALL_MS", "250"},
                                {"RANK", "1"},
                                {"WORLD_SIZE", "3"},
                                {"TORCHELASTIC_RUN_ID", "run"},
                                {"TORCHELASTIC_RESTART_COUNT", "2"}};
  PublisherOptions given;
  given.job = "from-program";
  given.policy = "kept";

  const auto options = with_environment(given);

  ASSERT_TRUE(options) << options.status().to_string();
  EXPECT_EQ(options->job, "from-environment");
  EXPECT_EQ(options->policy, "kept");
  EXPECT_EQ(options->stall, 250ms);
  EXPECT_EQ(options->rank, 1u);
  EXPECT_EQ(options->world_size, 3u);
  EXPECT_EQ(options->launch, "run.2");
}

}  // namespace
}  // namespace weightcast
