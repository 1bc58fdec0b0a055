// What a capture on a device brings into a slot.
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <random>

#include "publisher/capture.hpp"
#include "unit/device_fixture.hpp"

namespace weightcast::publisher {
namespace {

using namespace test;

TEST(DeviceCaptureTest, BytesAndDigestsAreThoseOfTheHost) {
  std::mt19937_64 random = seeded("BytesAndDigestsAreThoseOfTheHost");
  for (const bool on_device : {false, true}) {
    for (const std::optional<DType> cast :
         {std::optional<DType>(), std::optional(DType::kBF16), std::optional(DType::kF64)}) {
      for (const std::uint32_t rank : {0U, 1U}) {
        SCOPED_TRACE(std::to_string(on_device) + (cast ? dtype_name(*cast).data() : " as it is") +
                     " rank " + std::to_string(rank));
        Policy policy = mixed_policy(random());
        policy.add_buffer("transposed.buffer", DType::kF32, {40, 90});
        policy.list().tensors.back().strides = {1, 40};
        if (rank == 1) policy.shard_all_but_two();
        if (cast) policy.publish_floats_as(*cast);
        const auto cuda = fake(random());
        {
          Rig rig(cuda, policy, on_device, rank, 2);
          rig.options.chunk_bytes = rig.options.device_chunk_bytes = 64 * (1 + random() % 200);
          rig.open();
          for (const bool whole : {true, false, true}) {
            rig.slot.clear();
            const CaptureResult result = rig.run(whole);
            rig.expect_sealed_now(result);

            CapturePool pool(small_chunks());
            Slot slot(rig.layout.payload_bytes);
            CaptureRequest same = request_for(policy, rig.layout, slot);
            same.whole_policy_digest = whole;
            Outcome outcome;
            ASSERT_TRUE(pool.start(std::move(same), outcome.callback()));
            EXPECT_EQ(outcome.get().policy_digest, result.policy_digest);
          }
        }
        EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
        EXPECT_EQ(cuda->held(), driver::FakeCounts{});
        EXPECT_EQ(cuda->pageable_copies(), 0U);
      }
    }
  }
}

TEST(DeviceCaptureTest, SmallTensorsOfTheHostComeAlong) {
  for (const bool on_device : {false, true}) {
    Policy policy(7);
    policy.add("weight", DType::kF32, {300, 40});
    policy.add_buffer("normalizer", DType::kF64, {100});
    policy.add("bias", DType::kF32, {77});
    policy.add_buffer("steps", DType::kI64, {});
    policy.publish_floats_as(DType::kF32);
    Rig rig(fake(), policy, on_device);
    const auto mixed = [&] {
      CaptureRequest request = rig.request();
      for (const std::size_t i : {1U, 3U}) {
        request.list.tensors[i] = policy.list().tensors[i];
      }
      return request;
    };
    auto capture = DeviceCapture::create(rig.options, mixed());
    ASSERT_TRUE(capture.is_ok()) << capture.status().to_string();

    Outcome outcome;
    ASSERT_TRUE((*capture)->start(mixed(), outcome.callback()));

    rig.expect_sealed_now(outcome.get());
  }
}

TEST(DeviceCaptureTest, TheWatermarkNeverGoesAheadOfTheBytes) {
  std::mt19937_64 random = seeded("TheWatermarkNeverGoesAheadOfTheBytes");
  for (int round = 0; round < 6; ++round) {
    Policy policy = mixed_policy(random());
    if (round % 2 == 1) policy.publish_floats_as(DType::kF16);
    Rig rig(fake(random()), policy, round % 3 == 2);
    rig.options.chunk_bytes = rig.options.device_chunk_bytes = 64 * (16 + random() % 64);
    rig.open();
    std::vector<std::vector<std::byte>> all;
    for (const auto& item : rig.layout.items) all.push_back(policy.canonical(item.tensor));
    std::uint64_t before = 0;
    int raised = 0;
    CaptureRequest request = rig.request();
    request.written = [&](std::uint64_t bytes) {
      EXPECT_GT(bytes, before);
      for (std::size_t i = 0; i < rig.layout.items.size(); ++i) {
        const auto& item = rig.layout.items[i];
        const auto& expected = all[i];
        if (bytes <= item.offset) continue;
        const auto size = std::min<std::uint64_t>(bytes - item.offset, expected.size());
        ASSERT_EQ(std::memcmp(&rig.slot.slot.payload[item.offset], expected.data(), size), 0)
            << "tensor " << i << ", " << size << " bytes";
      }
      before = bytes;
      ++raised;
    };
    int begun = 0;
    request.begun = [&] {
      EXPECT_EQ(raised, 0);
      ++begun;
    };
    Outcome outcome;

    ASSERT_TRUE(rig.capture->start(std::move(request), outcome.callback()));

    rig.expect_sealed_now(outcome.get());
    EXPECT_TRUE(rig.capture->wait(soon()));
    EXPECT_EQ(begun, 1);
    EXPECT_GT(raised, 10);
    EXPECT_EQ(before, rig.layout.payload_bytes);
  }
}

TEST(DeviceCaptureTest, TheTrainerGoesOnBehindAFence) {
  for (const bool on_device : {false, true}) {
    Policy policy = mixed_policy(3);
    policy.publish_floats_as(DType::kBF16);
    Rig rig(fake(5), policy, on_device);
    rig.open();
    rig.cuda->hold();
    Outcome outcome;
    ASSERT_TRUE(rig.capture->start(rig.request(), outcome.callback()));
    rig.tensors.overwrite_on_stream(true);  // a forward in training mode

    EXPECT_TRUE(rig.capture->fence(soon()));

    // All of it on the trainer's thread while not a byte has moved.
    ++*rig.tensors.counter;
    rig.tensors.overwrite_on_stream();
    EXPECT_EQ(rig.cuda->copied_bytes(), 0U);
    EXPECT_EQ(outcome.calls(), 0);
    EXPECT_TRUE(rig.capture->fence(Clock::now())) << "a second optimizer's fence";
    rig.cuda->resume();
    rig.expect_sealed_now(outcome.get());
    EXPECT_TRUE(rig.capture->wait(soon()));
    EXPECT_EQ(rig.capture->stream_waits().count, 1U);
    EXPECT_EQ(rig.cuda->violations(), std::vector<std::string>{});
  }
}

TEST(DeviceCaptureTest, AWriteWithoutAFenceIsNoticed) {
  Policy policy = mixed_policy(4);
  Rig rig(fake(), policy, false);
  rig.open();
  rig.cuda->hold();
  Outcome outcome;
  ASSERT_TRUE(rig.capture->start(rig.request(), outcome.callback()));
  ++*rig.tensors.counter;
  rig.cuda->resume();

  EXPECT_EQ(outcome.get().status.code(), Code::kStale);
}

TEST(DeviceCaptureTest, ASteadyStateTakesNothing) {
  Policy policy = mixed_policy(9);
  policy.publish_floats_as(DType::kBF16);
  Rig rig(fake(), policy, false, 0, 2);
  rig.open();
  const auto taken = [&] {
    std::uint64_t calls = 0;
    for (const char* name : {"allocate", "allocate_host", "register_host", "create_stream",
                             "create_event", "make_digests", "free", "free_host"}) {
      calls += rig.cuda->calls(name);
    }
    return calls;
  };
  const std::uint64_t at_open = taken();

  for (int i = 0; i < 5; ++i) rig.expect_sealed_now(rig.run(i == 3));

  EXPECT_EQ(taken(), at_open);
}

TEST(DeviceCaptureTest, TensorsMayChange) {
  Policy small = mixed_policy(11);
  Policy large = mixed_policy(12);
  large.add("more", DType::kF32, {5000});
  const auto cuda = fake();
  {
    Rig rig(cuda, small, false);
    rig.open();
    rig.expect_sealed_now(rig.run());
    Rig other(cuda, large, false);
    other.capture = std::move(rig.capture);
    other.expect_sealed_now(other.run());
    rig.capture = std::move(other.capture);
    rig.slot.clear();
    rig.expect_sealed_now(rig.run());
  }
  EXPECT_EQ(cuda->held(), driver::FakeCounts{});
  EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
}

TEST(DeviceCaptureTest, TensorsThatHaveMovedAreRefused) {
  Policy policy = mixed_policy(13);
  Rig rig(fake(), policy, false);
  rig.open();
  CaptureRequest request = rig.request();
  request.list = policy.list();
  Outcome outcome;

  const Status moved = rig.capture->start(std::move(request), outcome.callback());

  EXPECT_EQ(moved.code(), Code::kInvalid);
  EXPECT_NE(moved.message().find("host memory"), std::string::npos) << moved.message();
  rig.expect_sealed_now(rig.run());
}

}  // namespace
}  // namespace weightcast::publisher
