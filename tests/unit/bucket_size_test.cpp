#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "plan/image_plan.hpp"

namespace weightcast::plan {
namespace {

constexpr std::uint64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;

void expect_size(const BucketNeeds& needs, std::uint64_t bytes, const std::string& reason) {
  const BucketSize size = size_buckets(needs);
  EXPECT_EQ(size.bytes, bytes) << size.reason;
  EXPECT_NE(size.reason.find(reason), std::string::npos) << size.reason;
}

TEST(SizeBuckets, AreOfTheUsualSizeWhereNothingIsKnown) {
  expect_size({}, 8 * kMiB, "8 MiB: the usual size; the link has not been measured");
  expect_size({.wanted_bytes = 16 * kGiB}, 8 * kMiB, "usual");
}

TEST(SizeBuckets, OutweighTheRoundTrip) {
  expect_size({.wanted_bytes = 16 * kGiB, .bytes_per_second = 1e9, .round_trip_seconds = 1e-3},
              8'000'000 / 4096 * 4096, "8 round trips of 1 ms");
  expect_size({.wanted_bytes = 16 * kGiB, .bytes_per_second = 1e9, .round_trip_seconds = 1e-6},
              64 * kKiB, "the least that pays");
  expect_size({.wanted_bytes = 16 * kGiB, .bytes_per_second = 1e9, .round_trip_seconds = 1},
              64 * kMiB, "the most that gains");
}

TEST(SizeBuckets, AreEnoughOfThemToOverlap) {
  expect_size({.wanted_bytes = 64 * kMiB}, 4 * kMiB, "16 buckets of 64 MiB, so that 4 at a time");
  expect_size({.wanted_bytes = 64 * kMiB, .under_way = 8}, 2 * kMiB, "32 buckets");
  expect_size({.wanted_bytes = 100 * kKiB}, 64 * kKiB, "version of only 100 KiB");
  expect_size({.wanted_bytes = 8 * kMiB, .bytes_per_second = 1e9, .round_trip_seconds = 2e-3},
              2'000'000 / 4096 * 4096, "outweighs one round trip");
}

TEST(SizeBuckets, FitTheBudgetWhateverElseIsAskedFor) {
  expect_size({.wanted_bytes = 16 * kGiB, .budget_bytes = 4 * kMiB}, kMiB,
              "1 MiB: the budget of 4 MiB holds 4 of it at once");
  expect_size(
      {.budget_bytes = 40'000, .under_way = 4, .bytes_per_second = 1e9, .round_trip_seconds = 1},
      8192, "budget");
  expect_size({.budget_bytes = 100}, 25, "budget");
  expect_size({.budget_bytes = 2}, 1, "budget");
  expect_size({.budget_bytes = 32 * kMiB}, 8 * kMiB, "usual");
}

TEST(SizeBuckets, TakeNonsenseForUnknown) {
  const double infinite = std::numeric_limits<double>::infinity();
  expect_size({.bytes_per_second = std::nan(""), .round_trip_seconds = 1}, 8 * kMiB, "usual");
  expect_size({.bytes_per_second = infinite, .round_trip_seconds = 1}, 8 * kMiB, "usual");
  expect_size({.bytes_per_second = -1, .round_trip_seconds = -1}, 8 * kMiB, "usual");
  expect_size({.bytes_per_second = 1e300, .round_trip_seconds = 1}, 64 * kMiB, "most that gains");
  expect_size({.wanted_bytes = 64 * kMiB, .under_way = 0}, 8 * kMiB, "usual");
}

}  // namespace
}  // namespace weightcast::plan
