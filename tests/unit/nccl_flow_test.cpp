#include <numeric>

#include "unit/nccl_fixture.hpp"

namespace weightcast::transport {
namespace {

using State = BucketFlow::State;

class NcclFlowTest : public NcclParty {};

TEST_F(NcclFlowTest, ABroadcastReachesEveryReceiverVersionAfterVersion) {
  for (const int receivers : {1, 2, 4}) {
    open(1, receivers);
    ASSERT_TRUE(join(1));
    ASSERT_TRUE(until([&] { return all_ready(); }));
    const auto held = cuda->held();
    for (std::uint64_t version = 1; version <= 3; ++version) {
      write_slots(version);
      begin();
      ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
      expect_images();
    }
    EXPECT_EQ(cuda->held(), held) << "something was taken for a version";
    EXPECT_EQ(nccl->calls("init_rank"), static_cast<std::uint64_t>(receivers + 1));
    EXPECT_EQ(cuda->pageable_copies(), 0u);
    for (Member* member : living()) member->gpu->leave("all", now);
    ASSERT_TRUE(until([&] { return nccl->held().communicators == 0; }));
    EXPECT_EQ(nccl->calls("abort"), 0u);
    TearDown();
    members.clear();
    cuda.reset();
  }
}

TEST_F(NcclFlowTest, RootsGoRoundAndPassingBytesAreDropped) {
  open(3, 2, {.call_polls = 2});
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  write_slots(9);
  begin();
  ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
  expect_images();
}

TEST_F(NcclFlowTest, TwoPartiesSendAndReceive) {
  open(1, 2);
  // A communicator of the sender with each receiver; one order on the sender.
  for (int i = 1; i <= 2; ++i) {
    const auto id = *nccl->unique_id();
    const std::string group = "pair" + std::to_string(i);
    ASSERT_TRUE(members[0].gpu->join(group, {id, 0, 2, 1}, now));
    ASSERT_TRUE(members[std::size_t(i)].gpu->join(group, {id, 1, 2, 1}, now));
  }
  ASSERT_TRUE(until([&] {
    for (int i = 1; i <= 2; ++i) {
      const auto* c = members[0].gpu->find("pair" + std::to_string(i));
      if (c->state() != Communicator::State::kReady) return false;
    }
    return true;
  }));
  write_slots(4);
  std::vector<FlowStep> sent;
  for (std::uint32_t b = 0; b < kBuckets; ++b) {
    for (std::uint32_t pair = 0; pair < 2; ++pair) {
      sent.push_back({FlowStep::Kind::kSend, pair, 1, b, bytes_of(b)});
    }
  }
  members[0].end = make_end(members[0]);
  members[0].flow = std::make_unique<BucketFlow>(
      *members[0].gpu, std::vector<std::string>{"pair1", "pair2"}, sent, *members[0].end, now);
  for (std::size_t i = 1; i <= 2; ++i) {
    std::vector<FlowStep> steps;
    for (std::uint32_t b = 0; b < kBuckets; ++b) {
      steps.push_back({FlowStep::Kind::kReceive, 0, 0, b, bytes_of(b)});
    }
    members[i].end = make_end(members[i]);
    members[i].flow = std::make_unique<BucketFlow>(
        *members[i].gpu, std::vector<std::string>{"pair" + std::to_string(i)}, steps,
        *members[i].end, now);
  }
  ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
  expect_images();
}

TEST_F(NcclFlowTest, AFlowMayBeginWhileItsRanksAreStillComingIn) {
  open(1, 1);
  write_slots(3);
  const auto id = *nccl->unique_id();
  ASSERT_TRUE(members[0].gpu->join("all", {id, 0, 2, 1}, now));
  ASSERT_TRUE(members[1].gpu->join("all", {id, 1, 2, 1}, now));
  begin();
  ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
  expect_images();
}

TEST_F(NcclFlowTest, ADeviceSlotGoesThroughTheBuffersAndStripsAreGathered) {
  open(1, 1);
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  auto* const slot = static_cast<std::byte*>(*cuda->allocate(0, kPayloadBytes));
  for (std::uint64_t i = 0; i < kPayloadBytes; ++i) slot[i] = pattern(i, 5);
  const std::vector<NcclBucketBytes> buckets = {
      {0, 4096, 4096}, {0, 0, 768, {{100, 128, 4, 1000}, {9000, 256, 1, 0}}}};
  auto sender = NcclSender::make(*members[0].gpu, {{{slot, kPayloadBytes}, nullptr}}, buckets, {});
  ASSERT_TRUE(sender);
  auto* const image = members[1].image;
  const auto to = [&](std::byte* place) {
    return [&, place](std::span<const std::byte> bucket, driver::Stream stream) {
      const driver::CopyItem item{place, bucket.data(), bucket.size()};
      return cuda->copy(members[1].device, {&item, 1}, stream);
    };
  };
  NcclReceiver receiver({to(image), to(image + 4096)}, {});
  BucketFlow out(*members[0].gpu, {"all"},
                 {{FlowStep::Kind::kBroadcastFrom, 0, 0, 0, 4096},
                  {FlowStep::Kind::kBroadcastFrom, 0, 0, 1, 768}},
                 **sender, now);
  BucketFlow in(*members[1].gpu, {"all"},
                {{FlowStep::Kind::kBroadcastTo, 0, 0, 0, 4096},
                 {FlowStep::Kind::kBroadcastTo, 0, 0, 1, 768}},
                receiver, now);
  ASSERT_TRUE(until([&] {
    return (out.poll(now) == State::kDone) & (in.poll(now) == State::kDone);
  }));
  for (std::uint64_t i = 0; i < 4096; ++i) ASSERT_EQ(image[i], pattern(4096 + i, 5));
  for (std::uint64_t run = 0; run < 4; ++run) {
    for (std::uint64_t i = 0; i < 128; ++i) {
      ASSERT_EQ(image[4096 + run * 128 + i], pattern(100 + run * 1000 + i, 5));
    }
  }
  for (std::uint64_t i = 0; i < 256; ++i) ASSERT_EQ(image[4096 + 512 + i], pattern(9000 + i, 5));
  cuda->free(0, slot);
}

TEST_F(NcclFlowTest, CopiesAndTheWireOverlap) {
  open(1, 1);
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  write_slots(2);
  begin();
  // The receiver does not come: meanwhile every buffer of the sender is loaded.
  for (int i = 0; i < 100; ++i) {
    now += std::chrono::milliseconds(1);
    members[0].flow->poll(now);
    cuda->run_all();
  }
  EXPECT_EQ(cuda->copied_bytes(), options.buckets * kBucketBytes);
  EXPECT_EQ(members[0].flow->done(), 0u);
  ASSERT_TRUE(until([&] { return all_are(State::kDone); }));
  expect_images();
}

TEST_F(NcclFlowTest, WhatIsNoStepIsRefused) {
  open(1, 1);
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  write_slots(6);
  members[1].end = make_end(members[1]);
  for (const FlowStep& step : {FlowStep{FlowStep::Kind::kBroadcastTo, 0, 0, 0, kBucketBytes + 1},
                               FlowStep{FlowStep::Kind::kBroadcastTo, 0, 0, 0, 0}}) {
    BucketFlow flow(*members[1].gpu, {"all"}, {step}, *members[1].end, now);
    EXPECT_EQ(flow.poll(now), State::kFailed);
    EXPECT_EQ(flow.status().code(), Code::kInvalid);
    recover(members[1].gpu->communicators() + 2 + step.bytes);
    for (Member& member : members) member.flow.reset();
    members[1].end = make_end(members[1]);
  }
  EXPECT_EQ(NcclSender::make(*members[0].gpu, {{{members[0].slot, 100}, nullptr}},
                             {{0, 64, 64}}, {})
                .status()
                .code(),
            Code::kInvalid);
  EXPECT_EQ(NcclSender::make(*members[0].gpu, {}, {{0, 0, 64}}, {}).status().code(),
            Code::kInvalid);
}

TEST_F(NcclFlowTest, RunBlocksUntilTheEndAndObeysItsDeadline) {
  open(1, 1);
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  write_slots(6);
  begin();
  // Nobody polls the other end.
  EXPECT_EQ(run(*members[0].flow, Clock::now(), {}).code(), Code::kDeadline);
  recover(2);
  for (Member& member : members) member.flow.reset();
  begin();
  EXPECT_EQ(run(*members[1].flow, Clock::now() + std::chrono::minutes(1), [] { return true; }).code(),
            Code::kCancelled);
  recover(3);
}

}  // namespace
}  // namespace weightcast::transport
