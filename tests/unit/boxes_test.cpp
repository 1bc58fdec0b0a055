#include "plan/boxes.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "unit/random_policy.hpp"

namespace weightcast::plan {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

TEST(ArrayBytes, KnowsWhatCannotBeCounted) {
  EXPECT_EQ(array_bytes(Numbers{}, 8), 8);
  EXPECT_EQ(array_bytes(Numbers{3, 0, 5}, 8), 0);
  EXPECT_EQ(array_bytes(Numbers{kMost}, 1), kMost);
  EXPECT_FALSE(array_bytes(Numbers{kMost}, 2));
  EXPECT_FALSE(array_bytes(Numbers{kMost, 2, 0}, 1));
  EXPECT_FALSE(array_bytes(Numbers{-1, -1}, 1));
  EXPECT_FALSE(array_bytes(Numbers(kMaxDims + 1, 1), 1));
}

TEST(IsInside, TakesAnyNumbers) {
  const Numbers whole{4, 6};
  const auto inside = [&](const Numbers& origin, const Numbers& shape) {
    return is_inside({origin, shape}, whole);
  };
  EXPECT_TRUE(inside({}, {4, 6}));
  EXPECT_TRUE(inside({4, 0}, {0, 6}));
  EXPECT_TRUE(inside({1, 2}, {3, 4}));
  EXPECT_FALSE(inside({1, 2}, {3, 5}));
  EXPECT_FALSE(inside({5, 0}, {0, 6}));
  EXPECT_FALSE(inside({-1, 0}, {4, 6}));
  EXPECT_FALSE(inside({0, 0}, {-1, 6}));
  EXPECT_FALSE(inside({kMost, 0}, {kMost, 6}));
  EXPECT_FALSE(inside({2, 0}, {kMost, 6}));
  EXPECT_FALSE(inside({std::numeric_limits<std::int64_t>::min(), 0}, {kMost, 6}));
  EXPECT_FALSE(inside({0}, {4, 6}));
  EXPECT_FALSE(inside({}, {4}));
}

// By counting each element.
bool counted_filling(const Numbers& whole, const std::vector<Box>& boxes) {
  bool once = true;
  each_index(whole, [&](const Numbers& index) {
    int times = 0;
    for (const Box& box : boxes) {
      bool is_in = true;
      for (std::size_t d = 0; d < whole.size(); ++d) {
        is_in = is_in && index[d] >= box.begin(d) && index[d] < box.end(d);
      }
      times += is_in ? 1 : 0;
    }
    once = once && times == 1;
  });
  return once;
}

TEST(FillExactly, AgreesWithCounting) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("seed=%llu\n", static_cast<unsigned long long>(seed));
  PolicyMaker maker(seed);
  int filled = 0;
  constexpr int kRounds = 4000;
  for (int round = 0; round < kRounds; ++round) {
    Numbers whole;
    for (std::uint64_t d = 1 + maker.below(4); d > 0; --d) {
      whole.push_back(static_cast<std::int64_t>(maker.below(12) == 0 ? 0 : 1 + maker.below(6)));
    }
    auto boxes = maker.tiles(whole, maker.below(7));
    const auto spoil = [&](Numbers& numbers, std::int64_t by) {
      std::int64_t& number = numbers[maker.below(whole.size())];
      number = std::max<std::int64_t>(0, number + by);
    };
    switch (maker.below(6)) {
      case 0:
        boxes.pop_back();
        break;
      case 1:
        boxes.push_back(boxes[maker.below(boxes.size())]);
        break;
      case 2:
        spoil(boxes[maker.below(boxes.size())].second, -1);
        break;
      case 3:
        spoil(boxes[maker.below(boxes.size())].first, -1);
        break;
      case 4:  // the same volume, elsewhere
        spoil(boxes[0].second, -1);
        spoil(boxes.back().second, 1);
        break;
      default:
        break;
    }
    std::vector<Box> views;
    for (const auto& [origin, shape] : boxes) {
      if (is_inside({origin, shape}, whole)) views.push_back({origin, shape});
    }

    const bool expected = counted_filling(whole, views);

    ASSERT_EQ(fill_exactly(whole, views), expected) << "seed " << seed << ", round " << round;
    filled += expected ? 1 : 0;
  }
  EXPECT_GT(filled, kRounds / 10);
  EXPECT_LT(filled, kRounds * 9 / 10);
}

TEST(FillExactly, KnowsAnOverlapThatIsAsLargeAsTheGap) {
  const Numbers whole{4, 4}, half{2, 4}, first{0, 0}, second{1, 0};

  EXPECT_FALSE(fill_exactly(whole, {{first, half}, {second, half}}));
}

TEST(FillExactly, IsQuickForManyBoxesThatAllTouchEachOther) {
  // Columns of all rows and rows of all columns: each pair of a row and a column would overlap.
  constexpr std::int64_t kSide = 40'000;
  const Numbers whole{kSide, kSide}, row{1, kSide}, column{kSide, 1};
  std::vector<Numbers> origins;
  for (std::int64_t i = 0; i < kSide; ++i) {
    origins.push_back({i, 0});
    origins.push_back({0, i});
  }
  std::vector<Box> boxes;
  for (std::size_t i = 0; i < origins.size(); ++i) {
    boxes.push_back({origins[i], i % 2 == 0 ? row : column});
  }

  EXPECT_FALSE(fill_exactly(whole, boxes));
}

TEST(CommonRuns, MergesWhatIsAdjacentInBoth) {
  const Numbers whole{4, 6, 8}, all{4, 6, 8}, none{0, 0, 0};
  const Box everything{none, all};

  const auto one = common_runs(everything, everything, whole, none, 2);
  ASSERT_TRUE(one);
  EXPECT_EQ(one->depth, 0u);
  EXPECT_EQ(one->run, 4u * 6 * 8 * 2);

  const Numbers middle{0, 2, 0}, slab{4, 3, 8};
  const auto slabs = common_runs({middle, slab}, everything, whole, none, 2);
  ASSERT_TRUE(slabs);
  EXPECT_EQ(slabs->run, 3u * 8 * 2);
  ASSERT_EQ(slabs->depth, 1u);
  EXPECT_EQ(slabs->axes[0].count, 4u);
  EXPECT_EQ(slabs->axes[0].source_stride, 48u);
  EXPECT_EQ(slabs->axes[0].target_stride, 96u);
  EXPECT_EQ(slabs->target, 32u);

  const Numbers last{0, 0, 7}, column{4, 6, 1};
  const auto columns = common_runs({last, column}, everything, whole, none, 2);
  ASSERT_TRUE(columns);
  EXPECT_EQ(columns->run, 2u);
  ASSERT_EQ(columns->depth, 1u);
  EXPECT_EQ(columns->axes[0].count, 24u);
  EXPECT_EQ(columns->strips(), 1u);
  EXPECT_EQ(columns->bytes(), 48u);

  const Numbers beyond{4, 0, 0}, empty{0, 6, 8};
  EXPECT_FALSE(common_runs({beyond, empty}, everything, whole, none, 2));
}

}  // namespace
}  // namespace weightcast::plan
