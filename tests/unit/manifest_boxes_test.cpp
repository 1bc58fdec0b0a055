// Manifests of sharded policies: what holds together, and what of it is refused.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "plan/boxes.hpp"
#include "plan/manifest.hpp"
#include "unit/random_policy.hpp"

namespace weightcast::plan {
namespace {

constexpr std::int64_t kFarthest = std::numeric_limits<std::int64_t>::max();

// "w" of [4, 6], by columns: 0 to 2 on rank 0, 2 to 6 on ranks 1 and 2.
Manifest columns() {
  Manifest manifest;
  for (std::uint32_t rank = 0; rank < 3; ++rank) {
    TensorInfo info{"w", {"tied"}, DType::kF32, {4, rank == 0 ? 2 : 4}, false, {4, 6}, {0, 2}};
    if (rank == 0) info.origin = {0, 0};
    Share share;
    share.rank = rank;
    share.payload_bytes = info.bytes();
    share.entries.push_back({info, 0, {}});
    manifest.shares.push_back(std::move(share));
  }
  return manifest;
}

TensorInfo& info_of(Manifest& manifest, std::size_t rank) {
  return manifest.shares[rank].entries[0].info;
}

void expect_refused(const std::vector<std::string>& words,
                    const std::function<void(Manifest&)>& change) {
  Manifest manifest = columns();
  change(manifest);

  const Status status = check_manifest(manifest);

  EXPECT_EQ(status.code(), Code::kInvalid) << words[0];
  for (const std::string& word : words) {
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  }
}

TEST(ManifestBoxes, AcceptsThoseThatFillTheWhole) {
  EXPECT_TRUE(check_manifest(columns())) << check_manifest(columns()).to_string();
  for (const Share& share : columns().shares) EXPECT_TRUE(check_share(share));
}

TEST(ManifestBoxes, AcceptsAnEmptyBoxOfWhoHoldsNothing) {
  Manifest manifest = columns();
  info_of(manifest, 2).shape = {0, 6};
  info_of(manifest, 2).origin = {4, 0};

  EXPECT_TRUE(check_manifest(manifest)) << check_manifest(manifest).to_string();
}

TEST(ManifestBoxes, RefusesNumbersThatAreNone) {
  expect_refused({"2 dimensions", "got 2 and 1"}, [](Manifest& m) { info_of(m, 1).origin = {0}; });
  expect_refused({"got 2 and 0"}, [](Manifest& m) { info_of(m, 1).origin = {}; });
  expect_refused({"got 3 and 2"}, [](Manifest& m) {
    for (int r = 0; r < 3; ++r) info_of(m, r).global_shape = {4, 6, 1};
  });
  expect_refused({"rank 1", "'w'", "inside [4, 6], got [4, 4] at [0, 3]"},
                 [](Manifest& m) { info_of(m, 1).origin = {0, 3}; });
  expect_refused({"at [-1, 2]"}, [](Manifest& m) { info_of(m, 1).origin = {-1, 2}; });
  expect_refused({"inside [4, 6]"}, [](Manifest& m) { info_of(m, 1).origin = {kFarthest, kFarthest}; });
  expect_refused({"63 bits"}, [](Manifest& m) {
    for (int r = 0; r < 3; ++r) info_of(m, r).global_shape = {kFarthest / 2, 6};
  });
  expect_refused({"63 bits", "[-4, 6]"}, [](Manifest& m) {
    for (int r = 0; r < 3; ++r) info_of(m, r).global_shape = {-4, 6};
  });
}

TEST(ManifestBoxes, RefusesAnOriginWithoutAWhole) {
  Share share = columns().shares[1];
  share.entries[0].info.global_shape.clear();

  const Status status = check_share(share);

  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("global shape"), std::string::npos) << status.message();
}

TEST(ManifestBoxes, RefusesRanksThatDisagree) {
  expect_refused({"rank 2", "rank 0", "another dtype"},
                 [](Manifest& m) { info_of(m, 2).dtype = DType::kI32; });
  expect_refused({"another global shape"},
                 [](Manifest& m) { info_of(m, 2).global_shape = {5, 6}; });
  expect_refused({"another aliases"}, [](Manifest& m) { info_of(m, 2).aliases = {}; });
  expect_refused({"another kind"}, [](Manifest& m) { info_of(m, 2).buffer = true; });
  expect_refused({"'w' twice"}, [](Manifest& m) {
    info_of(m, 2).global_shape.clear();
    info_of(m, 2).origin.clear();
  });
  expect_refused({"'w' twice"}, [](Manifest& m) {
    info_of(m, 0).global_shape.clear();
    info_of(m, 0).origin.clear();
  });
}

TEST(ManifestBoxes, RefusesNamesOfOtherTensors) {
  expect_refused({"'tied' twice"}, [](Manifest& m) {
    for (int r = 0; r < 3; ++r) {
      ShareEntry other = m.shares[r].entries[0];
      other.info.name = "v";
      other.offset = 128;
      m.shares[r].payload_bytes = 512;
      m.shares[r].entries.push_back(other);
    }
  });
  expect_refused({"'tied' twice"}, [](Manifest& m) { info_of(m, 2).name = "tied"; });
  expect_refused({"one box of it in a share"}, [](Manifest& m) {
    m.shares[0].entries.push_back(m.shares[0].entries[0]);
    m.shares[0].entries[1].offset = 64;
    m.shares[0].payload_bytes = 96;
  });
}

TEST(ManifestBoxes, SaysWhatIsMissingOrTooMuch) {
  expect_refused({"'w'", "fill [4, 6], 24 elements", "boxes of 16", "at least 8 are missing",
                  "list on every rank"},
                 [](Manifest& m) {
                   m.shares[0].entries.clear();
                   m.shares[0].payload_bytes = 0;
                 });
  expect_refused({"boxes of 32", "some overlap"}, [](Manifest& m) {
    info_of(m, 2).shape = {4, 2};
    info_of(m, 2).origin = {0, 4};
  });
  expect_refused({"boxes of 24", "some overlap, and as much is missing"},
                 [](Manifest& m) { info_of(m, 1).origin = info_of(m, 2).origin = {0, 1}; });
  expect_refused({"boxes of 0"}, [](Manifest& m) {
    for (int r = 0; r < 3; ++r) info_of(m, r).shape = {0, 2};
  });
}

TEST(ManifestBoxes, RandomPoliciesPassAndDoNotWithoutABox) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("seed=%llu\n", static_cast<unsigned long long>(seed));
  int refused = 0;
  for (int round = 0; round < 500; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    PolicyMaker maker(seed + static_cast<std::uint64_t>(round));
    const RandomPolicy policy = maker.policy(true);
    ASSERT_TRUE(check_manifest(policy.manifest)) << check_manifest(policy.manifest).to_string();

    Manifest spoiled = policy.manifest;
    Share& share = spoiled.shares[maker.below(spoiled.shares.size())];
    if (share.entries.empty()) continue;
    const ShareEntry removed = share.entries[maker.below(share.entries.size())];
    std::erase(share.entries, removed);
    if (!removed.info.is_box() || removed.info.bytes() == 0) continue;
    bool is_elsewhere = false, is_known = false;
    for (const Share& other : spoiled.shares) {
      for (const ShareEntry& entry : other.entries) {
        if (entry.info.name != removed.info.name) continue;
        is_known = true;
        is_elsewhere = is_elsewhere || same(box_of(entry.info), box_of(removed.info));
      }
    }
    // A tensor of which there is nothing at all is no tensor.
    ASSERT_EQ(check_manifest(spoiled).is_ok(), is_elsewhere || !is_known);
    refused += check_manifest(spoiled).is_ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 20);
}

TEST(ManifestBoxes, ManyRanksTakeNoLongTime) {
  // Rows and columns on ranks of their own, so that every pair of a row and a column overlaps.
  constexpr std::int64_t kSide = 20'000;
  Manifest manifest;
  for (std::int64_t i = 0; i < 2 * kSide; ++i) {
    TensorInfo info{"w", {}, DType::kU8, {1, kSide}, false, {kSide, kSide}, {i / 2, 0}};
    if (i % 2 == 1) {
      std::swap(info.shape[0], info.shape[1]);
      std::swap(info.origin[0], info.origin[1]);
    }
    Share share;
    share.rank = static_cast<std::uint32_t>(i);
    share.payload_bytes = info.bytes();
    share.entries.push_back({std::move(info), 0, {}});
    manifest.shares.push_back(std::move(share));
  }

  EXPECT_EQ(check_manifest(manifest).code(), Code::kInvalid);
}

}  // namespace
}  // namespace weightcast::plan
