#include "plan/shares.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "plan/manifest.hpp"
#include "support/seeded.hpp"

namespace weightcast::plan {
namespace {

using weightcast::test::seeded;

TensorInfo tensor(const std::string& name, std::int64_t elements, bool buffer = false,
                  DType dtype = DType::kU8) {
  TensorInfo info;
  info.name = name;
  info.dtype = dtype;
  info.shape = {elements};
  info.buffer = buffer;
  return info;
}

std::vector<TensorInfo> random_policy(std::mt19937_64& random, std::size_t count, bool buffers) {
  std::vector<TensorInfo> policy;
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t size = random() % 10 == 0 ? 0 : static_cast<std::int64_t>(random() % 5000);
    policy.push_back(tensor("t" + std::to_string(i), size, buffers && random() % 4 == 0));
  }
  return policy;
}

// What each rank of a trainer has whose ranks all list the same.
std::vector<ShareLayout> all_shares(const std::vector<TensorInfo>& policy, std::uint32_t world) {
  std::vector<ShareLayout> shares;
  for (std::uint32_t rank = 0; rank < world; ++rank) {
    shares.push_back(own_share(policy, rank, world));
  }
  return shares;
}

std::uint64_t bytes_of(const ShareLayout& share, const std::vector<TensorInfo>& policy) {
  std::uint64_t sum = 0;
  for (const auto& item : share.items) sum += policy[item.tensor].bytes();
  return sum;
}

// The least possible load of the fullest rank, by trying every assignment.
std::uint64_t best_balance(const std::vector<TensorInfo>& policy, std::vector<std::uint64_t>& loads,
                           std::size_t next) {
  if (next == policy.size()) return *std::max_element(loads.begin(), loads.end());
  std::uint64_t best = ~std::uint64_t{0};
  for (std::uint64_t& load : loads) {
    load += policy[next].bytes();
    best = std::min(best, best_balance(policy, loads, next + 1));
    load -= policy[next].bytes();
  }
  return best;
}

TEST(OwnShare, EveryTensorStandsInExactlyOneShareAlignedAndApart) {
  std::mt19937_64 random = seeded("EveryTensorStandsInExactlyOneShareAlignedAndApart");
  for (int round = 0; round < 100; ++round) {
    const auto policy = random_policy(random, random() % 200, true);
    const auto world = static_cast<std::uint32_t>(1 + random() % 9);

    const auto shares = all_shares(policy, world);

    ASSERT_EQ(shares.size(), world);
    std::set<std::uint32_t> seen;
    for (std::uint32_t rank = 0; rank < world; ++rank) {
      std::uint64_t end = 0;
      std::uint32_t least = 0;
      for (const auto& item : shares[rank].items) {
        ASSERT_LT(item.tensor, policy.size());
        ASSERT_TRUE(seen.insert(item.tensor).second) << item.tensor;
        ASSERT_GE(item.tensor, least) << "not in the order of the list";
        least = item.tensor;
        ASSERT_EQ(item.offset % kAlignment, 0u);
        ASSERT_GE(item.offset, end);
        ASSERT_LT(item.offset - end, kAlignment) << "a gap";
        end = item.offset + policy[item.tensor].bytes();
        ASSERT_TRUE(rank == 0 || !policy[item.tensor].buffer);
      }
      ASSERT_EQ(shares[rank].payload_bytes, end);
    }
    ASSERT_EQ(seen.size(), policy.size());
  }
}

TEST(OwnShare, LayoutsPassAsAManifest) {
  std::mt19937_64 random = seeded("LayoutsPassAsAManifest");
  const auto policy = random_policy(random, 150, true);
  const auto layouts = all_shares(policy, 4);

  Manifest manifest;
  for (std::uint32_t rank = 0; rank < layouts.size(); ++rank) {
    Share share;
    share.rank = rank;
    share.payload_bytes = layouts[rank].payload_bytes;
    for (const auto& item : layouts[rank].items) {
      share.entries.push_back({policy[item.tensor], item.offset, {}});
    }
    manifest.shares.push_back(share);
  }

  EXPECT_TRUE(check_manifest(manifest).is_ok()) << check_manifest(manifest).to_string();
  EXPECT_EQ(manifest.tensor_count(), policy.size());
}

TEST(OwnShare, BalanceIsWithinFourThirdsOfTheBest) {
  std::mt19937_64 random = seeded("BalanceIsWithinFourThirdsOfTheBest");
  for (int round = 0; round < 60; ++round) {
    const auto policy = random_policy(random, 1 + random() % 8, false);
    const auto world = static_cast<std::uint32_t>(2 + random() % 2);
    std::vector<std::uint64_t> loads(world, 0);
    const std::uint64_t best = best_balance(policy, loads, 0);

    std::uint64_t fullest = 0;
    for (const auto& share : all_shares(policy, world)) {
      fullest = std::max(fullest, bytes_of(share, policy));
    }

    ASSERT_LE(3 * fullest, 4 * best);
  }
}

TEST(OwnShare, NoRankIsFullerThanTheMeanAndOneTensor) {
  std::mt19937_64 random = seeded("NoRankIsFullerThanTheMeanAndOneTensor");
  for (int round = 0; round < 50; ++round) {
    const auto policy = random_policy(random, 300, false);
    const auto world = static_cast<std::uint32_t>(1 + random() % 16);
    std::uint64_t total = 0, largest = 0;
    for (const TensorInfo& info : policy) {
      total += info.bytes();
      largest = std::max<std::uint64_t>(largest, info.bytes());
    }

    for (const auto& share : all_shares(policy, world)) {
      ASSERT_LE(bytes_of(share, policy) * world, total + (world - 1) * largest);
    }
  }
}

TEST(OwnShare, ParametersMakeUpForTheBuffersOfRankZero) {
  const std::vector<TensorInfo> policy{tensor("statistics", 1000, true), tensor("a", 400),
                                       tensor("b", 300), tensor("c", 200)};

  const auto shares = all_shares(policy, 2);

  EXPECT_EQ(shares[0].items.size(), 1u);
  EXPECT_EQ(bytes_of(shares[1], policy), 900u);
}

TEST(OwnShare, EqualTensorsGoByIndexThenRank) {
  const std::vector<TensorInfo> policy{tensor("a", 64), tensor("b", 64), tensor("c", 64),
                                       tensor("d", 64)};

  const auto shares = all_shares(policy, 2);

  ASSERT_EQ(shares[0].items.size(), 2u);
  EXPECT_EQ(shares[0].items[0].tensor, 0u);
  EXPECT_EQ(shares[0].items[1].tensor, 2u);
  EXPECT_EQ(shares[1].items[0].tensor, 1u);
  EXPECT_EQ(shares[1].items[1].tensor, 3u);
}

TEST(OwnShare, MoreRanksThanTensorsLeavesEmptyShares) {
  const std::vector<TensorInfo> policy{tensor("a", 10), tensor("b", 20)};

  const auto shares = all_shares(policy, 5);

  ASSERT_EQ(shares.size(), 5u);
  EXPECT_EQ(shares[0].items.size(), 1u);
  EXPECT_EQ(shares[1].items.size(), 1u);
  for (std::size_t rank = 2; rank < 5; ++rank) {
    EXPECT_TRUE(shares[rank].items.empty());
    EXPECT_EQ(shares[rank].payload_bytes, 0u);
  }
}

// `info` as a rank has it: those rows of it.
TensorInfo rows(TensorInfo info, std::int64_t begin, std::int64_t end) {
  info.global_shape = info.shape;
  info.origin.assign(info.shape.size(), 0);
  info.origin[0] = begin;
  info.shape[0] = end - begin;
  return info;
}

TEST(OwnShare, BoxesAreTheirRanksAndChangeNothingForWholeTensors) {
  std::mt19937_64 random = seeded("BoxesAreTheirRanksAndChangeNothingForWholeTensors");
  for (int round = 0; round < 100; ++round) {
    const auto whole = random_policy(random, random() % 40, true);
    const auto world = static_cast<std::uint32_t>(1 + random() % 5);
    // Between them tensors that are sharded, of which each rank has another number of rows.
    std::vector<std::vector<TensorInfo>> lists(world);
    std::vector<std::uint32_t> place;  // of each whole tensor in the lists
    for (std::size_t i = 0; i < whole.size(); ++i) {
      while (random() % 2 == 0) {
        const TensorInfo sharded = tensor("s" + std::to_string(lists[0].size()), 700,
                                          random() % 2 == 0);
        std::int64_t begin = 0;
        for (std::uint32_t rank = 0; rank < world; ++rank) {
          const std::int64_t end =
              rank + 1 == world ? 700 : begin + static_cast<std::int64_t>(random() % 2) * 70;
          lists[rank].push_back(rows(sharded, begin, end));
          begin = end;
        }
      }
      place.push_back(static_cast<std::uint32_t>(lists[0].size()));
      for (auto& list : lists) list.push_back(whole[i]);
    }
    const auto expected = all_shares(whole, world);

    Manifest manifest;
    for (std::uint32_t rank = 0; rank < world; ++rank) {
      const ShareLayout layout = own_share(lists[rank], rank, world);
      std::vector<std::uint32_t> got, wanted;
      std::size_t boxes = 0;
      Share share;
      share.rank = rank;
      share.payload_bytes = layout.payload_bytes;
      for (const auto& item : layout.items) {
        const TensorInfo& info = lists[rank][item.tensor];
        if (info.is_box()) {
          ++boxes;
        } else {
          got.push_back(item.tensor);
        }
        share.entries.push_back({info, item.offset, {}});
      }
      for (const auto& item : expected[rank].items) wanted.push_back(place[item.tensor]);

      ASSERT_EQ(got, wanted) << "rank " << rank;
      ASSERT_EQ(boxes, lists[rank].size() - whole.size());
      ASSERT_EQ(layout_fingerprint(lists[rank]), layout_fingerprint(lists[0]));
      manifest.shares.push_back(std::move(share));
    }
    ASSERT_TRUE(check_manifest(manifest)) << check_manifest(manifest).to_string();
  }
}

TEST(CheckBoxes, NamesWhatTheTrainerHasToCorrect) {
  const TensorInfo good = rows(tensor("w", 9), 3, 9);
  TensorInfo bad = good;
  bad.origin = {4};

  EXPECT_TRUE(check_boxes({tensor("a", 3), good}));
  const Status status = check_boxes({tensor("a", 3), bad});

  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_EQ(status.message(),
            "tensor 'w': expected a box inside [9], got [6] at [4]; correct the global shape and "
            "origin that the trainer lists");
}

TEST(LayoutFingerprint, KnowsTheWholeAndNotTheBox) {
  const TensorInfo whole = tensor("w", 9);

  EXPECT_EQ(layout_fingerprint({rows(whole, 0, 4)}), layout_fingerprint({rows(whole, 4, 9)}));
  EXPECT_EQ(layout_fingerprint({rows(whole, 0, 9)}), layout_fingerprint({rows(whole, 9, 9)}));
  EXPECT_NE(layout_fingerprint({rows(whole, 0, 9)}), layout_fingerprint({whole}));
  EXPECT_NE(layout_fingerprint({rows(whole, 0, 4)}),
            layout_fingerprint({rows(tensor("w", 8), 0, 4)}));
}

TEST(LayoutFingerprint, KeepsItsGoldenValue) {
  TensorInfo info = tensor("fc.weight", 3, true, DType::kBF16);
  info.aliases = {"head.weight"};

  EXPECT_EQ(layout_fingerprint({}), 0xA8C7F832281A39C5u);
  EXPECT_EQ(layout_fingerprint({info}), 0xAE5FEFB97C8BD1A9u);
}

TEST(LayoutFingerprint, EveryPropertyAndTheOrderCount) {
  TensorInfo base = tensor("ab", 6);
  base.aliases = {"cd"};
  std::vector<std::vector<TensorInfo>> lists{{base}};
  const auto changed = [&](auto change) {
    TensorInfo info = base;
    change(info);
    lists.push_back({info});
  };
  changed([](TensorInfo& i) { i.name = "ac"; });
  changed([](TensorInfo& i) { i.name = "abcd", i.aliases.clear(); });
  changed([](TensorInfo& i) { i.name = "abc", i.aliases = {"d"}; });
  changed([](TensorInfo& i) { i.aliases = {"c", "d"}; });
  changed([](TensorInfo& i) { i.dtype = DType::kI8; });
  changed([](TensorInfo& i) { i.shape = {2, 3}; });
  changed([](TensorInfo& i) { i.shape = {3, 2}; });
  changed([](TensorInfo& i) { i.shape = {6, 1}; });
  changed([](TensorInfo& i) { i.shape = {}; });
  changed([](TensorInfo& i) { i.buffer = true; });
  lists.push_back({});
  lists.push_back({base, tensor("x", 1)});
  lists.push_back({tensor("x", 1), base});

  std::set<std::uint64_t> prints;
  for (const auto& list : lists) prints.insert(layout_fingerprint(list));

  EXPECT_EQ(prints.size(), lists.size());
}

}  // namespace
}  // namespace weightcast::plan
