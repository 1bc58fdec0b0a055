// A trace whose process is killed, exits or forks.
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "support/child_process.hpp"
#include "unit/trace_fixture.hpp"

namespace weightcast::base {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using test::at;
using test::text_of;

class TraceProcessTest : public test::TraceTest {
 protected:
  /// Until `part` is in the file.
  void wait_for(const std::string& part) const {
    const auto deadline = Clock::now() + 30s;
    while (text_of(path()).find(part) == std::string::npos && Clock::now() < deadline) {
      ::poll(nullptr, 0, 2);
    }
  }
};

TEST_F(TraceProcessTest, AKilledProcessLeavesAFileThatLacksItsBracketAlone) {
  test::ChildProcess child([&](const test::Talk& talk) {
    if (!open_trace(path(), "the child")) return 1;
    trace_span("wire", "tcp", at(1), at(2));
    talk.say("traced");
    talk.hear();
    return 0;
  });
  ASSERT_EQ(child.hear(), "traced");
  wait_for("\"tcp\"");
  child.kill();

  const json trace = json::parse(text_of(path()) + "]");
  ASSERT_EQ(spans(trace).size(), 1u);
  EXPECT_EQ(spans(trace)[0].at("name"), "tcp");
}

TEST_F(TraceProcessTest, AProcessThatExitsClosesItsFile) {
  test::ChildProcess child([&](const test::Talk&) -> int {
    if (!open_trace(path(), "the child")) return 1;
    trace_span("wire", "tcp", at(1), at(2));
    std::exit(0);
  });
  EXPECT_EQ(child.wait(), 0);
  const json trace = json::parse(text_of(path()));
  EXPECT_EQ(spans(trace).size(), 1u);
  EXPECT_EQ(last(trace), json({{"events", 1}, {"dropped", 0}}));
}

TEST_F(TraceProcessTest, AForkedChildWritesIntoAFileOfItsOwnAlone) {
  open();
  trace_span("wire", "the parent's", at(1), at(2));
  // The allocator of gcc 12's ASan stays locked in a child that is forked while another thread is in
  // it: the thread that writes is begun and idle then.
  wait_for("the parent's");
  test::ChildProcess child([&](const test::Talk& talk) {
    talk.say(tracing() ? "traces" : "does not trace");
    trace_span("wire", "nobody's", at(1), at(2));
    close_trace();
    if (!open_trace(path("child.json"), "the child")) return 1;
    trace_span("wire", "the child's", at(1), at(2));
    close_trace();
    return 0;
  });
  EXPECT_EQ(child.hear(), "does not trace");
  EXPECT_EQ(child.wait(), 0);
  const auto own = spans(read());
  const auto its = spans(json::parse(text_of(path("child.json"))));
  ASSERT_EQ(own.size(), 1u);
  ASSERT_EQ(its.size(), 1u);
  EXPECT_EQ(own[0].at("name"), "the parent's");
  EXPECT_EQ(its[0].at("name"), "the child's");
  EXPECT_NE(own[0].at("pid"), its[0].at("pid"));
}

}  // namespace
}  // namespace weightcast::base
