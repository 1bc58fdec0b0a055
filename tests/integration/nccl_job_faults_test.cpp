// Versions over NCCL, where something goes wrong.
#include <atomic>
#include <cstring>

#include "integration/nccl_job.hpp"
#include "integration/thread_stop.hpp"

namespace weightcast {
namespace {

using namespace test;

class NcclJobFaults : public NcclJob {
 protected:
  bool is_over_nccl(std::size_t engine) const {
    return engines[engine]->status().transport == "nccl";
  }
};

TEST_F(NcclJobFaults, AfterEveryErrorOfNcclVersionsComeOverNcclAgain) {
  open_devices(3);
  train(1, Mode::kBroadcast, Staging::kDevice);
  add_engines(2);
  bring();
  const LogLines lines;
  for (const char* const call : {"unique_id", "init_rank", "state", "broadcast"}) {
    for (const std::uint64_t nth : {1, 3}) {
      SCOPED_TRACE(std::string(call) + " number " + std::to_string(nth));
      nccl->fail(call, Status(Code::kInternal, "injected"), nth);
      const bool joins = std::strcmp(call, "unique_id") == 0 || std::strcmp(call, "init_rank") == 0;
      for (int i = 0; i < 6 && nccl->pending_failures() != 0; ++i) {
        // In place of the one that is kept.
        if (joins) nccl->fail("broadcast", Status(Code::kInternal, "injected"), 1);
        bring();
        if (HasFatalFailure()) return;
      }
      EXPECT_EQ(nccl->pending_failures(), 0u) << "what was to fail was not called";
      bring();
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_TRUE(is_over_nccl(0)) << engines[0]->status().transport_reason;
  EXPECT_TRUE(is_over_nccl(1)) << engines[1]->status().transport_reason;
  EXPECT_FALSE(lines.contain("event=receiver_lagging")) << "a failure cost an attempt its time";
}

TEST_F(NcclJobFaults, AfterEveryErrorInLeavingVersionsComeOverNcclAgain) {
  open_devices(10);
  train(1, Mode::kP2p, Staging::kDevice);
  add_engines(9);  // of which one finds no room to keep its communicator
  bring();
  for (const char* const call : {"finalize", "destroy"}) {
    for (const std::uint64_t nth : {1, 3}) {
      SCOPED_TRACE(std::string(call) + " number " + std::to_string(nth));
      nccl->fail(call, Status(Code::kInternal, "injected"), nth);
      for (int i = 0; i < 6 && nccl->pending_failures() != 0; ++i) bring();
      EXPECT_EQ(nccl->pending_failures(), 0u) << "what was to fail was not called";
      bring();
      if (HasFatalFailure()) return;
    }
  }
  for (std::size_t i = 0; i < engines.size(); ++i) {
    EXPECT_TRUE(is_over_nccl(i)) << engines[i]->status().transport_reason;
  }
}

TEST_F(NcclJobFaults, AfterThreeFailuresAnEngineGoesOnOverAnotherTransport) {
  open_devices(2);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines(1);
  bring();
  const LogLines lines;
  for (std::uint64_t nth = 1; nth <= 12; ++nth) {
    nccl->fail("receive", Status(Code::kUnavailable, "the link is broken"), nth);
  }
  bring();
  bring();
  EXPECT_TRUE(lines.contain("event=nccl_fell_back"));
  EXPECT_EQ(engines[0]->status().transport, "shm");
  const std::string why = engines[0]->status().transport_reason;
  EXPECT_TRUE(has(why, "(nccl: NCCL failed 3 times")) << why;
  EXPECT_TRUE(has(why, "the link is broken")) << why;
}

TEST_F(NcclJobFaults, SurvivorsOfAGpuThatDiesInTheMiddleGoOn) {
  open_devices(4);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines(3);
  bring();
  ThreadStop stop("trainer.sending");
  ASSERT_TRUE(publish_until([] { return ThreadStop::holds(); }));
  nccl->die(2);
  ThreadStop::let_go();
  for (int i = 0; i < 2; ++i) bring();
  EXPECT_TRUE(is_over_nccl(0));
}

TEST_F(NcclJobFaults, AStoppedEngineHoldsUpNeitherTheTrainerNorTheOthers) {
  open_devices(3);
  attempt_timeout = 5s;
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines(2);
  bring();
  ThreadStop stop("engine.copying");
  const std::uint64_t want = step + 1;
  ASSERT_TRUE(publish_until([] { return ThreadStop::holds(); }));
  ASSERT_TRUE(eventually([&] { return serves(0, want) || serves(1, want); }));
  const std::size_t survivor = serves(0, want) ? 0 : 1;
  expect_whole(survivor);
  expect_whole(1 - survivor);  // what it served before
  ASSERT_TRUE(ThreadStop::holds());
  ThreadStop::let_go();
  bring();
}

TEST_F(NcclJobFaults, WhenTheTrainerEndsInTheMiddleEnginesServeOnAndFollowTheNextRun) {
  open_devices(2);
  train(1, Mode::kBroadcast, Staging::kDevice);
  add_engines(1);
  bring();
  ThreadStop stop("engine.copying");
  ASSERT_TRUE(publish_until([] { return ThreadStop::holds(); }));
  publishers.clear();
  devices.clear();
  policies.clear();
  expect_whole(0);
  EXPECT_LT(engines[0]->acquire(soon())->version().number, step);
  ThreadStop::let_go();
  step = 0;
  train(1, Mode::kBroadcast, Staging::kDevice);
  ASSERT_TRUE(eventually([&] { return publishers[0]->status().receivers.size() == 1; }));
  publish();
  ASSERT_TRUE(publishers[0]->flush(soon(), devices[0]->lister()));
  bring();
  EXPECT_TRUE(is_over_nccl(0)) << engines[0]->status().transport;
}

TEST_F(NcclJobFaults, AnEngineThatGivesUpInTheMiddleLeavesNothingBehind) {
  open_devices(2);
  train(1, Mode::kP2p, Staging::kHost);
  add_engines(1);
  bring();
  auto stop = std::make_unique<ThreadStop>("trainer.sending");
  ASSERT_TRUE(publish_until([] { return ThreadStop::holds(); }));
  engines.clear();
  stop.reset();
  add_engines(1);
  bring();
}

TEST_F(NcclJobFaults, AnAbortThatNeverEndsCostsNcclAndNothingElse) {
  open_devices(2);
  expects_leaks = true;
  attempt_timeout = 8s;
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines(1);
  bring();
  const LogLines lines;
  nccl->hold_aborts();
  nccl->fail("receive", Status(Code::kInternal, "injected"), 3);
  bring();
  bring();
  EXPECT_EQ(engines[0]->status().transport, "shm");
  const std::string why = engines[0]->status().transport_reason;
  EXPECT_TRUE(has(why, "did not end in time")) << why;
  EXPECT_TRUE(eventually([&] { return lines.contain("event=nccl_lost"); }));
  nccl->release_aborts();
}

/// Spoils a byte of some buckets on the way.
class SpoilingNccl final : public driver::FakeNccl {
 public:
  explicit SpoilingNccl(std::shared_ptr<driver::FakeCuda> cuda) : FakeNccl(cuda), cuda_(cuda) {}
  Result<driver::NcclProgress> receive(driver::NcclComm comm, void* to, std::uint64_t bytes, int peer,
                                       driver::Stream stream) override {
    auto called = FakeNccl::receive(comm, to, bytes, peer, stream);
    if (called && spoils) {
      cuda_->enqueue(1, stream, [to] { static_cast<std::byte*>(to)[100] ^= std::byte{1}; });
    }
    return called;
  }
  std::atomic<bool> spoils{false};

 private:
  const std::shared_ptr<driver::FakeCuda> cuda_;
};

TEST_F(NcclJobFaults, WhatIsSpoiledOnTheWayIsNotServed) {
  open_devices(2);
  auto spoiling = std::make_shared<SpoilingNccl>(cuda);
  nccl = spoiling;
  driver::set_nccl(nccl);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines(1);
  bring();
  // On a loaded machine another step is still on its way.
  const auto last = publishers[0]->flush(soon(), devices[0]->lister());
  ASSERT_TRUE(last) << last.status().to_string();
  const std::uint64_t good = last->version.number;
  ASSERT_TRUE(eventually([&] { return serves(0, good); }));
  spoiling->spoils = true;
  ASSERT_TRUE(publish_until([&] { return engines[0]->status().failed > 0; }));
  EXPECT_TRUE(has(engines[0]->status().last_failure, "do not have the digest"))
      << engines[0]->status().last_failure;
  expect_whole_of(0, good);
  spoiling->spoils = false;
  bring();
}

TEST_F(NcclJobFaults, ALayoutOfSlicesComesAnotherWayAndSaysWhy) {
  open_devices(2);
  train(1, Mode::kBroadcast, Staging::kHost);
  SubscriberOptions options = engine_options(1);
  options.layout = {{"part", {256, 30}, {{"embed.weight", {0, 50}, {256, 30}}}}};
  add_engine(options);
  ASSERT_TRUE(publish_until([&] { return serves(0, 1); })) << engines[0]->status().last_failure;
  EXPECT_EQ(engines[0]->status().transport, "shm");
  const std::string why = engines[0]->status().transport_reason;
  EXPECT_TRUE(has(why, "(nccl: this engine takes slices")) << why;
}

TEST_F(NcclJobFaults, WithoutADeviceNcclIsRefusedWithTheReason) {
  open_devices(1);
  SubscriberOptions options = engine_options(-1);
  expect_refusal(Subscriber::open(options).status(), Code::kInvalid, {"transport = nccl", "device"});
  ToyPolicy policy;
  PublisherOptions trainer = publisher_options();
  trainer.transport = TransportChoice::kNccl;
  expect_refusal(Publisher::open(trainer, policy.lister()).status(), Code::kInvalid,
                 {"transport = nccl", "host memory"});
}

}  // namespace
}  // namespace weightcast
