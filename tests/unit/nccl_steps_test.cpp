// Both ends of a share's transfer make the same steps of what the manifest says.
#include <gtest/gtest.h>

#include "stream/nccl_steps.hpp"

namespace weightcast::stream {
namespace {

using Kind = transport::FlowStep::Kind;

constexpr std::uint64_t kPayloads[] = {1,         64,        16384,       16385,
                                       1'000'000, 100000064, 1'073'741'824, 16'381'470'720};

TEST(NcclStepsTest, BucketsCoverThePayloadOnceAndFitTheBuffers) {
  std::uint64_t former = 0;
  for (const std::uint64_t payload : kPayloads) {
    const std::uint64_t bytes = nccl_bucket_bytes(payload);
    EXPECT_GE(bytes, former) << "buffers made for a larger payload serve a smaller one";
    EXPECT_LE(bytes, kMaxNcclBucket);
    former = bytes;
    const auto steps = nccl_steps(payload, 0, 0, 3);
    ASSERT_EQ(steps.size(), nccl_buckets(payload));
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(steps[i].bucket, i);
      EXPECT_GT(steps[i].bytes, 0u);
      EXPECT_TRUE(steps[i].bytes == bytes || i + 1 == steps.size());
      sum += steps[i].bytes;
    }
    EXPECT_EQ(sum, payload);
  }
  EXPECT_EQ(nccl_buckets(0), 0u);
}

TEST(NcclStepsTest, TheEndsOfASessionMatch) {
  for (const int size : {2, 3, 5}) {
    for (const std::uint32_t first : {0u, 5u}) {
      const auto source = nccl_steps(1'000'000, first, 0, size);
      for (int rank = 1; rank < size; ++rank) {
        const auto engine = nccl_steps(1'000'000, first, rank, size);
        ASSERT_EQ(engine.size(), source.size());
        for (std::size_t i = 0; i < source.size(); ++i) {
          EXPECT_EQ(source[i].bucket, first + i);
          EXPECT_EQ(engine[i].bucket, source[i].bucket);
          EXPECT_EQ(engine[i].bytes, source[i].bytes);
          EXPECT_EQ(source[i].kind, size == 2 ? Kind::kSend : Kind::kBroadcastFrom);
          EXPECT_EQ(engine[i].kind, size == 2 ? Kind::kReceive : Kind::kBroadcastTo);
          EXPECT_EQ(source[i].peer, size == 2 ? 1 : 0);
          EXPECT_EQ(engine[i].peer, 0);
        }
      }
    }
  }
}

TEST(NcclStepsTest, WhatIsKeptIsSlimWhereItMayBeMuch) {
  for (const bool is_p2p : {false, true}) {
    for (std::uint32_t ranks = 1; ranks <= 20; ++ranks) {
      const transport::SessionOptions options = nccl_session_options(ranks, is_p2p);
      const std::uint32_t of_source = is_p2p ? options.keep : 1;
      const std::uint32_t of_engine = std::min(ranks, nccl_options().max_communicators - 1);
      const auto blocks = options.blocks == 0 ? 32u : static_cast<std::uint32_t>(options.blocks);
      EXPECT_LE(std::max(of_source, of_engine) * blocks, 96u) << "which take 0.8 GB at most";
      EXPECT_LT(options.keep, nccl_options().max_communicators) << "one is free for the next";
    }
  }
}

TEST(NcclStepsTest, OtherPayloadsAreOtherPlans) {
  for (const std::uint64_t one : kPayloads) {
    for (const std::uint64_t other : kPayloads) {
      EXPECT_EQ(nccl_plan(one) == nccl_plan(other), one == other);
    }
  }
}

}  // namespace
}  // namespace weightcast::stream
