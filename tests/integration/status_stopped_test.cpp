// weightcast status where a trainer or an engine is stopped, dead or of another version.
#include <gtest/gtest.h>

#include <fstream>

#include <weightcast/job_status.hpp>

#include "integration/command_run.hpp"
#include "integration/local_job.hpp"
#include "protocol/message.hpp"
#include "support/child_process.hpp"

namespace weightcast {
namespace {

using namespace std::chrono_literals;
using test::ChildProcess;
using test::Ended;
using test::eventually;
using test::has;
using test::Talk;
using test::ToyPolicy;

class StatusOfStopped : public test::LocalJob {
 protected:
  Ended status(const std::string& timeout) const {
    return test::run_program({WEIGHTCAST_COMMAND, "status", "--job", job, "--directory",
                              place.path(), "--timeout", timeout},
                             output_.path());
  }
  /// Publishes nothing; lives until its parent hangs up.
  int trainer(const Talk& talk) const {
    ToyPolicy policy;
    Publisher publisher = open(policy);
    talk.say("ready");
    talk.hear();
    return 0;
  }
  JobStatusOptions asked() const { return {.job = job, .directory = place.path()}; }

  test::PrivatePlace output_;
};

TEST_F(StatusOfStopped, TrainerIsToldFromOneThatDied) {
  ChildProcess child([&](const Talk& talk) { return trainer(talk); });
  ASSERT_EQ(child.hear(), "ready");
  EXPECT_EQ(status("20").code, 0);

  child.stop();
  const Ended stopped = status("0.5");
  EXPECT_EQ(stopped.code, 1);
  EXPECT_TRUE(has(stopped.err, "has not answered")) << stopped.err;
  EXPECT_TRUE(has(stopped.err, "stopped")) << stopped.err;

  child.go_on();
  EXPECT_EQ(status("20").code, 0);

  child.kill();
  const Ended dead = status("20");
  EXPECT_EQ(dead.code, 1);
  EXPECT_TRUE(has(dead.err, "ended without a goodbye")) << dead.err;

  // What the dead one left goes with the next.
  ToyPolicy policy;
  { const Publisher next = open(policy); }
  EXPECT_TRUE(eventually([&] { return test::shm_objects("." + job + ".").empty(); }));
  const Ended gone = status("20");
  EXPECT_TRUE(has(gone.err, "no trainer publishes")) << gone.err;
}

TEST_F(StatusOfStopped, EngineFallsSilentAndIsShownAsGone) {
  ChildProcess child([&](const Talk& talk) {
    Subscriber engine = follow("sleeper");
    talk.say("ready");
    talk.hear();
    return 0;
  });
  ASSERT_EQ(child.hear(), "ready");
  ToyPolicy policy;
  PublisherOptions options = publisher_options();
  options.member_timeout = 500ms;
  Publisher publisher = open(options, policy);
  ASSERT_TRUE(eventually([&] { return publisher.status().receivers.size() == 1; }));

  child.stop();
  ASSERT_TRUE(eventually([&] {
    const auto seen = job_status(asked(), test::soon());
    EXPECT_TRUE(seen) << seen.status().to_string();
    return !seen || !seen->gone.empty();
  }));
  const auto seen = job_status(asked(), test::soon());
  ASSERT_TRUE(seen);
  EXPECT_EQ(seen->gone[0].name, "sleeper");
  EXPECT_EQ(seen->gone[0].why, "silent");
  EXPECT_TRUE(seen->engines.empty());

  child.go_on();
  EXPECT_TRUE(eventually([&] {
    const auto back = job_status(asked(), test::soon());
    return back && back->engines.size() == 1;
  }));
}

TEST_F(StatusOfStopped, AnotherProtocolVersionIsNamed) {
  ToyPolicy policy;
  Publisher publisher = open(policy);
  const std::string file = place.path() + "/" + job + "/policy/coordinator";
  std::string text = test::text_of(file);
  const std::string ours = "protocol=" + std::to_string(protocol::kProtocolVersion);
  ASSERT_TRUE(text.starts_with(ours)) << text;
  std::ofstream(file) << text.replace(0, ours.size(), "protocol=3");

  const auto seen = job_status(asked(), test::soon());

  ASSERT_FALSE(seen);
  expect_refusal(seen.status(), Code::kMismatch, {"protocol version 3", "process"});
}

}  // namespace
}  // namespace weightcast
