#include "gae.hpp"

#include <vector>

#include <gtest/gtest.h>

namespace rl_loop {
namespace {

constexpr float kDiscount = 0.9F;
constexpr float kLambda = 0.5F;

Segment one_environment(std::vector<std::uint8_t> terminated, std::vector<std::uint8_t> truncated) {
  Segment segment;
  segment.steps = static_cast<std::uint32_t>(terminated.size());
  segment.environments = 1;
  segment.rewards.assign(terminated.size(), 1.0F);
  segment.terminated = std::move(terminated);
  segment.truncated = std::move(truncated);
  return segment;
}

std::vector<float> advantages_of(const Segment& segment, const std::vector<float>& values,
                                 const std::vector<float>& next_values) {
  std::vector<float> advantages(segment.transitions());
  generalized_advantages(segment, values, next_values, kDiscount, kLambda, advantages);
  return advantages;
}

TEST(GaeTest, BootstrapsAtTheSegmentsEnd) {
  const Segment segment = one_environment({0, 0}, {0, 0});

  const auto advantages = advantages_of(segment, {2.0F, 3.0F}, {3.0F, 4.0F});

  const float last = 1.0F + 0.9F * 4.0F - 3.0F;
  EXPECT_FLOAT_EQ(advantages[1], last);
  EXPECT_FLOAT_EQ(advantages[0], 1.0F + 0.9F * 3.0F - 2.0F + 0.45F * last);
}

TEST(GaeTest, SeesNoFutureAfterATerminatedStep) {
  const Segment segment = one_environment({1, 0}, {0, 0});

  const auto advantages = advantages_of(segment, {2.0F, 3.0F}, {100.0F, 4.0F});

  EXPECT_FLOAT_EQ(advantages[0], 1.0F - 2.0F);
}

TEST(GaeTest, BootstrapsATruncatedStepButStopsThere) {
  const Segment segment = one_environment({0, 0}, {1, 0});

  const auto advantages = advantages_of(segment, {2.0F, 3.0F}, {5.0F, 4.0F});

  EXPECT_FLOAT_EQ(advantages[0], 1.0F + 0.9F * 5.0F - 2.0F);
}

TEST(GaeTest, KeepsEnvironmentsApart) {
  Segment segment;
  segment.steps = 2;
  segment.environments = 2;
  segment.rewards = {1.0F, 1.0F, 1.0F, 1.0F};
  segment.terminated = {0, 1, 0, 0};
  segment.truncated = {0, 0, 0, 0};

  const auto advantages =
      advantages_of(segment, {2.0F, 2.0F, 3.0F, 7.0F}, {3.0F, 50.0F, 4.0F, 8.0F});

  const float last = 1.0F + 0.9F * 4.0F - 3.0F;
  EXPECT_FLOAT_EQ(advantages[2], last);
  EXPECT_FLOAT_EQ(advantages[0], 1.0F + 0.9F * 3.0F - 2.0F + 0.45F * last);
  EXPECT_FLOAT_EQ(advantages[1], 1.0F - 2.0F);
  EXPECT_FLOAT_EQ(advantages[3], 1.0F + 0.9F * 8.0F - 7.0F);
}

}  // namespace
}  // namespace rl_loop
