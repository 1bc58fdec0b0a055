#include "plan/image_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace weightcast::plan {
namespace {

using Numbers = std::vector<std::int64_t>;

ShareEntry entry(const std::string& name, std::uint64_t offset, Numbers shape, Numbers whole = {},
                 Numbers origin = {}, DType dtype = DType::kU8) {
  ShareEntry out;
  out.info.name = name;
  out.info.dtype = dtype;
  out.info.shape = std::move(shape);
  out.info.global_shape = std::move(whole);
  out.info.origin = std::move(origin);
  out.offset = offset;
  return out;
}

Manifest manifest(std::vector<std::vector<ShareEntry>> shares) {
  Manifest out;
  for (auto& entries : shares) {
    Share share;
    share.rank = static_cast<std::uint32_t>(out.shares.size());
    for (const ShareEntry& e : entries) {
      share.payload_bytes = std::max<std::uint64_t>(share.payload_bytes, e.offset + e.info.bytes());
    }
    share.entries = std::move(entries);
    out.shares.push_back(std::move(share));
  }
  return out;
}

TEST(PlanImage, PaddingIsCopiedAlongSoThatAShareIsOneRun) {
  const auto plan = plan_image(
      manifest({{entry("a", 0, {10}), entry("b", 64, {64}), entry("c", 128, {3})}}), {}, 1 << 20);

  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->buckets.size(), 1u);
  EXPECT_EQ(plan->buckets[0].strips, (std::vector<CopyStrip>{{0, 0, 131, 1, 0, 0}}));
}

TEST(PlanImage, HolesInAShareAreNotRead) {
  const auto plan =
      plan_image(manifest({{entry("a", 0, {10}), entry("b", 1 << 20, {10})}}), {}, 1 << 30);

  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->buckets.size(), 1u);
  EXPECT_EQ(plan->buckets[0].bytes, 20u);
  EXPECT_EQ(plan->image_bytes, (1u << 20) + 64);
}

TEST(PlanImage, RowsAreOneRunAndColumnsOneStrip) {
  const auto rows = plan_image(manifest({{entry("w", 0, {2, 3, 8}, {4, 3, 8}, {0, 0, 0})},
                                         {entry("w", 0, {2, 3, 8}, {4, 3, 8}, {2, 0, 0})}}),
                               {}, 1 << 20);
  const auto columns = plan_image(manifest({{entry("w", 0, {4, 3, 5}, {4, 3, 8}, {0, 0, 0})},
                                            {entry("w", 0, {4, 3, 3}, {4, 3, 8}, {0, 0, 5})}}),
                                  {}, 1 << 20);

  ASSERT_TRUE(rows && columns);
  ASSERT_EQ(rows->buckets.size(), 2u);
  EXPECT_EQ(rows->buckets[1].strips, (std::vector<CopyStrip>{{0, 48, 48, 1, 0, 0}}));
  ASSERT_EQ(rows->whole.size(), 2u);
  EXPECT_EQ(rows->whole[1].share, 1u);
  EXPECT_EQ(rows->whole[1].target, 48u);
  ASSERT_EQ(columns->buckets.size(), 2u);
  EXPECT_EQ(columns->buckets[1].strips, (std::vector<CopyStrip>{{0, 5, 3, 12, 3, 8}}));
  EXPECT_TRUE(columns->whole.empty());
}

TEST(PlanImage, BucketsAreFullAndGoRoundTheShares) {
  const auto plan =
      plan_image(manifest({{entry("a", 0, {1000})}, {entry("b", 0, {300})}}), {}, 256);

  ASSERT_TRUE(plan);
  std::vector<std::pair<std::uint32_t, std::uint64_t>> buckets;
  for (const PlannedBucket& bucket : plan->buckets)
    buckets.emplace_back(bucket.share, bucket.bytes);
  EXPECT_EQ(buckets, (std::vector<std::pair<std::uint32_t, std::uint64_t>>{
                         {0, 256}, {1, 256}, {0, 256}, {1, 44}, {0, 256}, {0, 232}}));
}

TEST(PlanImage, EqualBoxesAreReadFromTheShareThatGivesLeast) {
  std::vector<std::vector<ShareEntry>> shares(3);
  for (int i = 0; i < 6; ++i) {
    for (auto& entries : shares) {
      entries.push_back(
          entry("t" + std::to_string(i), static_cast<std::uint64_t>(i) * 128, {100}, {100}, {0}));
    }
  }
  shares[1].push_back(entry("whole", 1024, {150}));

  const auto plan = plan_image(manifest(shares), {}, 1 << 20);

  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->share_bytes, (std::vector<std::uint64_t>{200, 350, 200}));
}

TEST(PlanImage, AScalarIsATensor) {
  const Manifest policy = manifest({{entry("s", 64, {}, {}, {}, DType::kF64)}});

  const auto whole = plan_image(policy, {}, 1 << 20);
  const auto wanted = plan_image(policy, {{"x", {}, {LayoutPiece{"s"}}}}, 1);

  ASSERT_TRUE(whole && wanted);
  EXPECT_EQ(whole->tensors[0].offset, 64u);
  ASSERT_EQ(wanted->buckets.size(), 1u);
  EXPECT_EQ(wanted->buckets[0].strips, (std::vector<CopyStrip>{{64, 0, 8, 1, 0, 0}}));
}

TEST(PlanImage, ABucketHasABoundedNumberOfStrips) {
  std::vector<ShareEntry> entries;
  Layout layout;
  for (std::size_t i = 0; i <= kMaxBucketStrips; ++i) {
    entries.push_back(entry("t" + std::to_string(i), 64 * i, {1}));
    layout.push_back({"x" + std::to_string(i), {1}, {LayoutPiece{"t" + std::to_string(i)}}});
  }

  const auto plan = plan_image(manifest({entries}), layout, 1 << 20);

  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->buckets.size(), 2u);
  EXPECT_EQ(plan->buckets[0].strips.size(), kMaxBucketStrips);
}

// ---- refusals -------------------------------------------------------------------------------

void expect_refused(const Manifest& policy, const Layout& layout, Code code,
                    const std::vector<std::string>& words, std::uint64_t bucket_bytes = 1 << 20) {
  const Status status = plan_image(policy, layout, bucket_bytes).status();
  EXPECT_EQ(status.code(), code) << status.to_string();
  for (const std::string& word : words) {
    EXPECT_NE(status.message().find(word), std::string::npos) << word << " in " << status.message();
  }
}

TEST(PlanImage, RefusesLayoutsOfAnotherPolicy) {
  const Manifest policy = manifest(
      {{entry("w", 0, {4, 6}), entry("h", 64, {4, 6}, {}, {}, DType::kF16), entry("s", 128, {})}});
  constexpr Code kCode = Code::kMismatch;

  expect_refused(policy, {{"x", {4}, {LayoutPiece{"v"}}}}, kCode, {"'x'", "'v'", "no tensor"});
  expect_refused(policy, {{"x", {24}, {LayoutPiece{"w"}}}}, kCode, {"'w'", "[24]", "[4, 6]"});
  expect_refused(policy, {{"x", {1}, {LayoutPiece{"s"}}}}, kCode, {"'s'", "[1]", "[]"});
  expect_refused(policy, {{"x", {4, 5}, {LayoutPiece{"w"}}}}, kCode, {"fit into [4, 5]"});
  expect_refused(policy, {{"x", {4, 7}, {LayoutPiece{"w"}}}}, kCode, {"28 elements", "of 24"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {0, 1}, {4, 6}, {}}}}}, kCode,
                 {"inside [4, 6]", "[0, 1]"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {-1, 0}, {}, {}}}}}, kCode, {"[-1, 0]"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {5, 0}, {}, {}}}}}, kCode, {"[5, 0]"});
  expect_refused(policy, {{"x", {8, 6}, {LayoutPiece{"w"}, LayoutPiece{"h", {}, {4, 6}, {4, 0}}}}},
                 kCode, {"one dtype", "'w' of u8", "'h' of f16"});
}

TEST(PlanImage, RefusesLayoutsThatContradictThemselves) {
  const Manifest policy = manifest({{entry("w", 0, {4, 6})}});
  constexpr Code kCode = Code::kInvalid;
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();

  expect_refused(policy, {{"", {4, 6}, {LayoutPiece{"w"}}}}, kCode, {"a name"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w"}}}, {"x", {4, 6}, {LayoutPiece{"w"}}}},
                 kCode, {"'x'", "twice"});
  expect_refused(policy, {{"x", {0}, {}}}, kCode, {"'x'", "expected a piece"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {0}, {}, {}}}}}, kCode, {"2 numbers"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {}, {4, 6, 1}, {}}}}}, kCode,
                 {"2 numbers"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {}, {4, 6}, {0, 1}}}}}, kCode,
                 {"fit into [4, 6]", "[0, 1]"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w", {}, {4, 6}, {most, most}}}}}, kCode,
                 {"fit into"});
  expect_refused(policy, {{"x", {8, 6}, {LayoutPiece{"w", {}, {4, 6}, {}}}}}, kCode,
                 {"48 elements", "of 24"});
  expect_refused(policy,
                 {{"x", {4, 6}, {LayoutPiece{"w", {}, {4, 4}, {}}, {"w", {}, {4, 2}, {0, 3}}}}},
                 kCode, {"overlap"});
  expect_refused(policy, {{"x", {most, 6}, {LayoutPiece{"w", {}, {4, 6}, {}}}}}, kCode,
                 {"63 bits"});
  expect_refused(policy, {{"x", {4, 6}, {LayoutPiece{"w"}}}}, kCode, {"a byte or more"}, 0);
}

TEST(PlanImage, BoundsWhatADamagedManifestCanMakeItDo) {
  const std::int64_t huge = std::int64_t{1} << 60;
  const Manifest large = manifest({{entry("w", 0, {huge})}});
  const Manifest larger = manifest({{entry("w", 0, {huge * 4})}, {entry("v", 0, {huge * 4})}});
  const std::int64_t side = std::int64_t{1} << 12;
  const Manifest scattered =
      manifest({{entry("w", 0, {side, side, 1, 2}, {side, side, 2, 4}, {0, 0, 0, 0})},
                {entry("w", 0, {side, side, 1, 2}, {side, side, 2, 4}, {0, 0, 0, 2})},
                {entry("w", 0, {side, side, 1, 4}, {side, side, 2, 4}, {0, 0, 1, 0})}});

  expect_refused(large, {}, Code::kExhausted, {"strips", "larger"});
  expect_refused(larger, {}, Code::kInvalid, {"63 bits"}, std::uint64_t{1} << 62);
  EXPECT_TRUE(plan_image(scattered, {}, 1 << 30)) << "columns of any depth are one strip";
  expect_refused(manifest({{entry("w", 0, {side, side, 2, 2, 2})}}),
                 {{"x",
                   {side - 1, side - 1, 1, 2, 1},
                   {LayoutPiece{"w", {}, {side - 1, side - 1, 1, 2, 1}, {}}}}},
                 Code::kExhausted, {"strips"});
}

}  // namespace
}  // namespace weightcast::plan
