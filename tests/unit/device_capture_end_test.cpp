// How captures on a device end that do not end well.
#include <gtest/gtest.h>

#include <mutex>
#include <random>
#include <string>
#include <vector>

#include <weightcast/log.hpp>

#include "support/sanitized.hpp"
#include "unit/device_fixture.hpp"

namespace weightcast::publisher {
namespace {

using namespace test;

const Status kFailure{Code::kInternal, "cudaErrorOfTheTest: told to fail"};
constexpr std::uint64_t kMostCalls = weightcast::test::kSanitized ? 12 : 40;  // that are made to fail, of each kind

TEST(DeviceCaptureEndTest, WhatOutlastsTheStallIsGivenUp) {
  Policy policy = mixed_policy(1);
  Rig rig(fake(), policy, false);
  rig.options.stall = Duration(0);
  rig.open();
  rig.cuda->hold();
  const std::uint64_t copies = rig.cuda->calls("copy");
  Outcome outcome;
  ASSERT_TRUE(rig.capture->start(rig.request(), outcome.callback()));

  EXPECT_FALSE(rig.capture->fence(Clock::now()));
  EXPECT_TRUE(rig.capture->cancel());

  ++*rig.tensors.counter;
  rig.tensors.overwrite_on_stream();
  rig.cuda->resume();
  EXPECT_EQ(outcome.get().status.code(), Code::kCancelled);
  EXPECT_TRUE(rig.capture->wait(soon()));
  EXPECT_FALSE(rig.capture->cancel());
  EXPECT_LE(rig.cuda->calls("copy") - copies, 5U) << "the rest was queued";
  EXPECT_EQ(rig.capture->stream_waits().count, 0U);

  rig.cuda->run_all();
  rig.tensors.load();
  rig.slot.clear();
  rig.expect_sealed_now(rig.run());
}

TEST(DeviceCaptureEndTest, ACancelledCaptureIsAwaited) {
  Policy policy = mixed_policy(2);
  Rig rig(fake(), policy, true);
  rig.open();
  rig.cuda->hold();
  Outcome outcome;
  ASSERT_TRUE(rig.capture->start(rig.request(), outcome.callback()));
  EXPECT_TRUE(rig.capture->fence(soon()));

  EXPECT_TRUE(rig.capture->cancel());

  EXPECT_FALSE(rig.capture->wait(Clock::now() + std::chrono::milliseconds(20)));
  EXPECT_EQ(outcome.calls(), 0) << "its slot is still written to";
  rig.cuda->resume();
  EXPECT_EQ(outcome.get().status.code(), Code::kCancelled);
}

TEST(DeviceCaptureEndTest, EachCallThatFailsVoidsThePointAlone) {
  for (const bool on_device : {false, true}) {
    for (const std::string call : {"record", "wait", "copy", "gather", "digest", "done"}) {
      const auto cuda = fake();
      {
        Policy policy = mixed_policy(3);
        policy.publish_floats_as(DType::kBF16);
        Rig rig(cuda, policy, on_device);
        rig.options.chunk_bytes = rig.options.device_chunk_bytes = 32768;
        rig.open();
        rig.expect_sealed_now(rig.run());
        const std::uint64_t before = cuda->calls(call);
        rig.expect_sealed_now(rig.run());
        const std::uint64_t calls = std::min(cuda->calls(call) - before, kMostCalls);
        ASSERT_GT(calls, 0U) << call;
        for (std::uint64_t nth = 1; nth <= calls; ++nth) {
          SCOPED_TRACE(call + " number " + std::to_string(nth));
          cuda->fail(call, kFailure, nth);
          const CaptureResult failed = rig.run();
          // Some looks are at clocks alone; of these nothing depends on an answer.
          if (!failed.status || call != "done") {
            EXPECT_EQ(failed.status.code(), Code::kInternal);
            EXPECT_NE(failed.status.message().find("told to fail"), std::string::npos);
          }
          EXPECT_EQ(cuda->pending(), 0U) << "its slot is still written to";
          rig.slot.clear();
          CaptureResult next = rig.run();
          if (!next.status && call == "done") next = rig.run();  // it was not reached before
          rig.expect_sealed_now(next);
          if (::testing::Test::HasFailure()) return;
        }
      }
      EXPECT_EQ(cuda->violations(), std::vector<std::string>{}) << call;
      EXPECT_EQ(cuda->held(), driver::FakeCounts{}) << call;
    }
  }
}

TEST(DeviceCaptureEndTest, AFenceThatFailsVoidsThePoint) {
  for (const std::string call : {"record", "wait"}) {
    Policy policy = mixed_policy(4);
    Rig rig(fake(), policy, false);
    rig.open();
    const auto before = rig.cuda->calls("record");
    rig.expect_sealed_now(rig.run());
    const auto calls = rig.cuda->calls("record") - before;
    rig.cuda->hold();
    Outcome outcome;
    const auto records = rig.cuda->calls("record") + calls;
    ASSERT_TRUE(rig.capture->start(rig.request(), outcome.callback()));
    // All is queued, so that the fence's call is the next of its name.
    for (const auto by = soon(); Clock::now() < by && rig.cuda->calls("record") < records;) {
      std::this_thread::yield();
    }
    rig.cuda->fail(call, kFailure);

    EXPECT_TRUE(rig.capture->fence(soon())) << "training goes on";

    rig.cuda->resume();
    EXPECT_EQ(outcome.get().status.message(), kFailure.message());
    rig.slot.clear();
    EXPECT_TRUE(rig.capture->wait(soon()));
    rig.expect_sealed_now(rig.run());
  }
}

TEST(DeviceCaptureEndTest, WhatCannotBeTakenIsRefusedAtOpen) {
  Policy policy = mixed_policy(5);
  policy.publish_floats_as(DType::kBF16);
  for (const char* call :
       {"allocate", "create_stream", "create_event", "make_digests"}) {
    for (std::uint64_t nth = 1; nth <= 3; ++nth) {
      if (call == std::string("create_stream") && nth == 3) continue;
      const auto cuda = fake();
      {
        Rig rig(cuda, policy, false);
        const driver::FakeCounts before = cuda->held();
        cuda->fail(call, Status(Code::kExhausted, "no more of it"), nth);
        const auto made = DeviceCapture::create(rig.options, rig.request());
        ASSERT_FALSE(made.is_ok()) << call << nth;
        EXPECT_EQ(made.status().code(), Code::kExhausted);
        EXPECT_EQ(cuda->held(), before) << call << nth;
      }
      EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
    }
  }
}

TEST(DeviceCaptureEndTest, ALostDeviceIsSaidOnce) {
  std::mutex mutex;
  int lines = 0;
  set_log_sink([&](LogLevel, std::string_view line) {
    const std::lock_guard lock(mutex);
    if (line.find("event=device_lost") != std::string_view::npos) ++lines;
  });
  Policy policy = mixed_policy(6);
  Rig rig(fake(), policy, false);
  rig.open();
  rig.cuda->hold();
  Outcome outcome;
  ASSERT_TRUE(rig.capture->start(rig.request(), outcome.callback()));
  rig.cuda->lose(0);
  EXPECT_TRUE(rig.capture->fence(soon()));
  rig.cuda->resume();

  EXPECT_EQ(outcome.get().status.code(), Code::kUnavailable);

  EXPECT_TRUE(rig.capture->wait(soon()));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(rig.run().status.code(), Code::kUnavailable);
  rig.capture.reset();
  set_log_sink({});
  EXPECT_EQ(lines, 1);
}

TEST(DeviceCaptureEndTest, ADeviceThatHangsKeepsNobody) {
  Policy policy = mixed_policy(7);
  // For the rest of the process, as what a hanging device may write to.
  auto* const rig = new Rig(fake(), policy, false);
  static auto* const kept = new std::vector<Rig*>;  // reachable to the end, for leak checkers
  kept->push_back(rig);
  rig->options.farewell = std::chrono::milliseconds(30);
  rig->open();
  rig->cuda->hold();
  Outcome outcome;
  ASSERT_TRUE(rig->capture->start(rig->request(), outcome.callback()));
  const std::uint64_t freed = rig->cuda->calls("free");

  rig->capture.reset();

  EXPECT_EQ(outcome.get().status.code(), Code::kDeadline);
  EXPECT_EQ(rig->cuda->calls("free"), freed) << "it may still be written to";
}

}  // namespace
}  // namespace weightcast::publisher
