// Whatever fails, wherever: the survivors go on, and nothing is left behind.
#include "unit/nccl_fixture.hpp"

namespace weightcast::transport {
namespace {

using State = BucketFlow::State;

class NcclFaultsTest : public NcclParty {
 protected:
  void start_broadcast(int senders, int receivers, driver::FakeNcclOptions how = {}) {
    open(senders, receivers, how);
    ASSERT_TRUE(join(1));
    ASSERT_TRUE(until([&] { return all_ready(); }));
    write_slots(1);
    begin();
  }
  void reset() {
    TearDown();
    members.clear();
    cuda.reset();
    first_ = 0;
  }
};

TEST_F(NcclFaultsTest, SurvivorsOfADeadReceiverGoOnFromTheFirstMissingBucket) {
  // -1: nobody is told, so that their own deadline is what ends it.
  for (const int error_polls : {0, 5, -1}) {
    for (const std::size_t dies_at : {0u, 1u, 3u, 5u}) {
      SCOPED_TRACE("told after " + std::to_string(error_polls) + ", dies at " +
                   std::to_string(dies_at));
      start_broadcast(1, 3, {.error_polls = error_polls});
      ASSERT_TRUE(until([&] { return members[2].done >= dies_at; }));
      kill(2);
      ASSERT_TRUE(until([&] { return none_running(); }));
      recover(2);
      EXPECT_GE(first_ + 1, dies_at);
      reset();
      if (HasFailure()) return;
    }
  }
}

TEST_F(NcclFaultsTest, SurvivorsOfADeadSenderGoOnWithTheOthers) {
  start_broadcast(2, 2);
  ASSERT_TRUE(until([&] { return members[3].done >= 2; }));
  kill(0);
  ASSERT_TRUE(until([&] { return none_running(); }));
  for (Member* member : living()) EXPECT_EQ(member->flow->poll(now), State::kFailed);
  recover(2);
}

TEST_F(NcclFaultsTest, AReceiverThatStandsStillEndsByTheDeadlineOfTheOthers) {
  start_broadcast(1, 2, {.error_polls = -1});
  ASSERT_TRUE(until([&] { return members[1].done >= 1; }));
  // Stopped: it polls no more, but its communicator is there.
  auto stopped = std::move(members[2].flow);
  const auto since = now;
  ASSERT_TRUE(until([&] {
    return members[0].flow->poll(now) == State::kFailed &&
           members[1].flow->poll(now) == State::kFailed;
  }));
  EXPECT_EQ(members[1].flow->status().code(), Code::kDeadline);
  EXPECT_LT(now - since, options.silence + std::chrono::seconds(1));
  members[2].flow = std::move(stopped);
  recover(2);
}

TEST_F(NcclFaultsTest, EveryErrorOfNcclAtEveryCallIsSurvived) {
  // How often each call is made when all goes well.
  open(2, 2, {.call_polls = 1});
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  write_slots(1);
  begin();
  ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
  std::vector<std::pair<std::string, std::uint64_t>> calls;
  for (const char* call : {"unique_id", "init_rank", "state", "broadcast", "register_memory"}) {
    ASSERT_GT(nccl->calls(call), 0u) << call;
    calls.emplace_back(call, nccl->calls(call));
  }
  reset();
  for (const auto& [call, times] : calls) {
    const std::uint64_t step = times > 60 ? times / 40 : 1;
    for (std::uint64_t nth = 1; nth <= times; nth += step) {
      for (const Code code : {Code::kInternal, Code::kUnavailable}) {
        SCOPED_TRACE(call + " number " + std::to_string(nth));
        open(2, 2, {.call_polls = 1});
        write_slots(nth);
        nccl->fail(call, Status(code, "wanted"), nth);
        const bool is_in = join(1).is_ok() && until([&] {
          const bool any_failed = [&] {
            for (Member* member : living()) {
              if (member->gpu->find("all") == nullptr) return true;
            }
            return false;
          }();
          return any_failed || all_ready();
        }) && all_ready();
        if (is_in) {
          begin();
          ASSERT_TRUE(until([&] { return none_running(); }));
        }
        if (!is_in || !all_are(State::kDone)) recover(2);
        expect_images();
        reset();
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(NcclFaultsTest, EveryErrorOfTheLastCallsIsSurvived) {
  for (const char* call : {"deregister_memory", "finalize", "destroy", "state"}) {
    for (std::uint64_t nth = 1; nth <= 3; ++nth) {
      SCOPED_TRACE(std::string(call) + " number " + std::to_string(nth));
      start_broadcast(1, 2);
      ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
      expect_images();
      for (Member* member : living()) member->flow.reset();
      nccl->fail(call, Status(Code::kInternal, "wanted"), nth);
      for (Member* member : living()) member->gpu->leave("all", now);
      ASSERT_TRUE(until([&] { return nccl->held().communicators == 0; }));
      EXPECT_GT(nccl->calls("abort"), 0u);
      reset();
      if (HasFailure()) return;
    }
  }
}

TEST_F(NcclFaultsTest, AnAbortThatSaysAnErrorIsOverAllTheSame) {
  start_broadcast(1, 2);
  ASSERT_TRUE(until([&] { return members[1].done >= 1; }));
  nccl->fail("abort", Status(Code::kInternal, "wanted"));
  nccl->fail("state", Status(Code::kUnavailable, "wanted"));
  ASSERT_TRUE(until([&] { return none_running(); }));
  recover(2);
}

TEST_F(NcclFaultsTest, ErrorsOfCudaAreSurvived) {
  for (const char* call : {"copy", "record", "wait", "done"}) {
    for (const std::uint64_t nth : {1u, 2u, 5u, 9u}) {
      SCOPED_TRACE(std::string(call) + " number " + std::to_string(nth));
      start_broadcast(1, 2);
      cuda->fail(call, Status(Code::kInternal, "wanted"), nth);
      ASSERT_TRUE(until([&] { return none_running(); }));
      if (!all_are(State::kDone)) recover(2);
      expect_images();
      reset();
      if (HasFailure()) return;
    }
  }
}

TEST_F(NcclFaultsTest, BuffersAreInQuarantineUntilTheAbortIsOver) {
  start_broadcast(1, 2);
  ASSERT_TRUE(until([&] { return members[1].done >= 1; }));
  nccl->hold_aborts();
  nccl->fail("state", Status(Code::kUnavailable, "wanted"));
  ASSERT_TRUE(until([&] { return none_running(); }));
  for (int i = 0; i < 50; ++i) poll_all();
  for (Member* member : living()) {
    EXPECT_EQ(member->gpu->status().code(), Code::kUnavailable);
    EXPECT_NE(member->gpu->status().message().find("quarantine"), std::string::npos);
    EXPECT_FALSE(member->gpu->is_lost());
    member->flow.reset();
  }
  // The next communicator is built meanwhile.
  ASSERT_TRUE(join(2));
  ASSERT_TRUE(until([&] {
    for (Member* member : living()) {
      if (member->gpu->find("all")->state() != Communicator::State::kReady) return false;
    }
    return true;
  }));
  EXPECT_FALSE(members[0].gpu->status());
  nccl->release_aborts();
  ASSERT_TRUE(until([&] { return all_ready(); }));
  first_ = 0;
  begin();
  ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
  expect_images();
}

TEST_F(NcclFaultsTest, AnAbortThatNeverEndsLosesTheGpuForNcclAndNothingElse) {
  options.abort = std::chrono::milliseconds(200);
  start_broadcast(1, 1);
  ASSERT_TRUE(until([&] { return members[1].done >= 1; }));
  nccl->hold_aborts();
  nccl->fail("state", Status(Code::kUnavailable, "wanted"));
  ASSERT_TRUE(until([&] { return members[0].gpu->is_lost() && members[1].gpu->is_lost(); }));
  EXPECT_NE(members[0].gpu->status().message().find("not used any more"), std::string::npos);
  for (Member* member : living()) {
    member->flow.reset();
    member->gpu.reset();
  }
  // Memory that a kernel may still write to is not given back.
  EXPECT_EQ(nccl->held().memory, 2u);
  nccl->release_aborts();
  ASSERT_TRUE(until([&] { return nccl->held().communicators == 0; }));
  expects_leaks = true;
}

}  // namespace
}  // namespace weightcast::transport
