// What a capture copies, casts and digests.
#include "publisher/capture.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "unit/capture_fixture.hpp"

namespace weightcast::publisher {
namespace {

using namespace test;

TEST(Capture, CopiesEveryKindOfTensor) {
  for (std::uint32_t threads : {1u, 2u, 5u}) {
    Policy policy = mixed_policy(threads);
    const auto layout = only_share(policy);
    Slot slot(layout.payload_bytes + 100);
    CapturePool pool(small_chunks(threads));
    Outcome outcome;

    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

    expect_sealed(policy, layout, slot, outcome.get());
    EXPECT_TRUE(pool.wait(soon()));
    EXPECT_EQ(outcome.calls(), 1);
  }
}

TEST(Capture, CastsWhilePublishing) {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF64}) {
    Policy policy = mixed_policy(7);
    policy.publish_floats_as(dtype);
    const auto layout = only_share(policy);
    Slot slot(layout.payload_bytes);
    CapturePool pool(small_chunks());
    Outcome outcome;

    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

    expect_sealed(policy, layout, slot, outcome.get());
  }
}

TEST(Capture, ChunksLargerThanTheScratchAreCopiedWhole) {
  Policy policy(3);
  policy.add_transposed("w", DType::kF32, 700, 801);
  policy.add("v", DType::kF32, {700, 801});
  policy.publish_floats_as(DType::kBF16);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(CaptureOptions{});
  Outcome outcome;

  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(Capture, EveryRankDigestsTheParametersOfTheWholePolicy) {
  Policy policy = mixed_policy(11);
  base::Digest whole;  // without buffers, in which the ranks may differ
  for (std::uint32_t i = 0; i < policy.published().size(); ++i) {
    if (!policy.published()[i].buffer) whole += policy.digest(i);
  }
  CapturePool pool(small_chunks());
  for (std::uint32_t rank = 0; rank < 3; ++rank) {
    const auto layout = plan::own_share(policy.published(), rank, 3);
    Slot slot(layout.payload_bytes);
    Outcome outcome;
    CaptureRequest request = request_for(policy, layout, slot);
    request.whole_policy_digest = true;

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());

    const CaptureResult result = outcome.get();
    expect_sealed(policy, layout, slot, result);
    EXPECT_EQ(result.policy_digest, whole);
    ASSERT_TRUE(pool.wait(soon()));
  }
}

TEST(Capture, BoxesAreCapturedByWhoHasThemAndComparedWithNobody) {
  Policy policy = mixed_policy(12);
  policy.shard_all_but_two();  // "scalar" stays whole: it has no dimension to shard
  base::Digest whole;
  for (std::uint32_t i = 0; i < policy.published().size(); ++i) {
    if (!policy.published()[i].is_box()) whole += policy.digest(i);
  }
  CapturePool pool(small_chunks());
  for (std::uint32_t rank = 0; rank < 2; ++rank) {
    const auto layout = plan::own_share(policy.published(), rank, 2);
    Slot slot(layout.payload_bytes);
    Outcome outcome;
    CaptureRequest request = request_for(policy, layout, slot);
    request.whole_policy_digest = true;

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());

    const CaptureResult result = outcome.get();
    expect_sealed(policy, layout, slot, result);
    EXPECT_EQ(result.policy_digest, whole);
    std::size_t boxes = 0;
    for (const auto& item : layout.items) {
      boxes += policy.published()[item.tensor].is_box() ? 1 : 0;
    }
    EXPECT_EQ(boxes, policy.published().size() - 3);
    ASSERT_TRUE(pool.wait(soon()));
  }
}

TEST(Capture, BuffersAndSmallTensorsAreCopiedBeforeStartReturns) {
  Policy policy(5);
  policy.add_buffer("running_var", DType::kF32, {100'000});
  policy.add("bias", DType::kF32, {64});
  policy.add("weight", DType::kF32, {100'000});
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  const auto buffer = policy.canonical(0), bias = policy.canonical(1);
  Gate gate;
  CaptureRequest request = request_for(policy, layout, slot);
  request.list.unchanged = [&gate] { return gate.pass(), true; };
  Outcome outcome;
  {
    CapturePool pool(small_chunks());

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());
    // As a forward would: from here on the buffer is another.
    auto* changed = const_cast<void*>(policy.list().tensors[0].data);
    std::memset(changed, 0, policy.published()[0].bytes());
    std::memset(const_cast<void*>(policy.list().tensors[1].data), 0, policy.published()[1].bytes());
    gate.open();

    ASSERT_TRUE(outcome.get().status.is_ok());
  }
  EXPECT_EQ(std::memcmp(slot.payload.data() + layout.items[0].offset, buffer.data(), buffer.size()),
            0);
  EXPECT_EQ(std::memcmp(slot.payload.data() + layout.items[1].offset, bias.data(), bias.size()), 0);
  EXPECT_NE(outcome.thread(), std::this_thread::get_id());
}

TEST(Capture, AllInlineIsDoneBeforeStartReturns) {
  Policy policy(5);
  policy.add("bias", DType::kF32, {64});
  policy.add("empty", DType::kF32, {0});
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(CaptureOptions{});
  Outcome outcome;

  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  EXPECT_EQ(outcome.calls(), 1);
  EXPECT_EQ(outcome.thread(), std::this_thread::get_id());
  EXPECT_TRUE(pool.wait(Clock::now()));
  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(Capture, AnEmptyShareIsDoneAtOnce) {
  Policy policy(5);
  policy.add("bias", DType::kF32, {64});
  const auto layout = plan::own_share(policy.published(), 1, 2);
  Slot slot(0);
  CapturePool pool(CaptureOptions{});
  Outcome outcome;

  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  EXPECT_TRUE(outcome.get().status.is_ok());
  EXPECT_TRUE(outcome.get().digests.empty());
}

TEST(Capture, SizesMayChangeBetweenCaptures) {
  std::mt19937_64 random = seeded("SizesMayChangeBetweenCaptures");
  CapturePool pool(small_chunks(3));
  for (int round = 0; round < 30; ++round) {
    Policy policy(random());
    for (std::uint64_t i = random() % 40; i > 0; --i) {
      policy.add("t" + std::to_string(i), DType::kI16, {static_cast<std::int64_t>(random() % 9000)});
    }
    const auto layout = only_share(policy);
    Slot slot(layout.payload_bytes);
    Outcome outcome;

    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

    expect_sealed(policy, layout, slot, outcome.get());
    ASSERT_TRUE(pool.wait(soon()));
  }
}

TEST(Capture, RefusesWhatDoesNotFitAndSaysWhy) {
  Policy policy(1);
  policy.add("weight", DType::kF32, {100});
  policy.add("ids", DType::kI64, {10});
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(CaptureOptions{});
  const auto expect_refused = [&](const std::string& words, auto change) {
    CaptureRequest request = request_for(policy, layout, slot);
    change(request);
    Outcome outcome;

    const Status status = pool.start(std::move(request), outcome.callback());

    EXPECT_EQ(status.code(), Code::kInvalid) << words;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
    EXPECT_EQ(outcome.calls(), 0);
  };

  expect_refused("raise the slot's size",
                 [](CaptureRequest& r) { r.payload = r.payload.first(r.payload.size() - 1); });
  expect_refused("multiple of 64", [](CaptureRequest& r) { r.layout.items[1].offset += 8; });
  expect_refused("tensor number 2", [](CaptureRequest& r) { r.layout.items[0].tensor = 2; });
  expect_refused("one for each tensor", [](CaptureRequest& r) { r.published.pop_back(); });
  expect_refused("shape", [](CaptureRequest& r) { r.published[0].shape = {10, 10}; });
  expect_refused("i64 to f32", [](CaptureRequest& r) { r.published[1].dtype = DType::kF32; });
  expect_refused("stride", [](CaptureRequest& r) { r.list.tensors[0].strides = {1, 1}; });
  expect_refused("null", [](CaptureRequest& r) { r.list.tensors[0].data = nullptr; });

  Outcome outcome;
  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());
  expect_sealed(policy, layout, slot, outcome.get());
}

}  // namespace
}  // namespace weightcast::publisher
