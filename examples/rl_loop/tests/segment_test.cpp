#include "segment.hpp"

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "example_segment.hpp"

namespace rl_loop {
namespace {

TEST(SegmentTest, SurvivesTheWire) {
  const Segment segment = example_segment({11, 12});

  const auto decoded = decode(encode(segment));

  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->tag, segment.tag);
  EXPECT_EQ(decoded->worker, segment.worker);
  EXPECT_EQ(decoded->steps, segment.steps);
  EXPECT_EQ(decoded->environments, segment.environments);
  EXPECT_EQ(decoded->states, segment.states);
  EXPECT_EQ(decoded->next_states, segment.next_states);
  EXPECT_EQ(decoded->log_probs, segment.log_probs);
  EXPECT_EQ(decoded->rewards, segment.rewards);
  EXPECT_EQ(decoded->actions, segment.actions);
  EXPECT_EQ(decoded->terminated, segment.terminated);
  EXPECT_EQ(decoded->truncated, segment.truncated);
  EXPECT_EQ(decoded->episode_returns, segment.episode_returns);
}

TEST(SegmentTest, RefusesEveryOtherLength) {
  std::vector<std::byte> bytes = encode(example_segment({1, 1}));

  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode(std::span(bytes).first(size)).has_value()) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(decode(bytes).has_value());
}

TEST(SegmentTest, RefusesAnActionThatDoesNotExist) {
  Segment segment = example_segment({1, 1});
  segment.actions[3] = 2;

  EXPECT_FALSE(decode(encode(segment)).has_value());
}

TEST(SegmentTest, TakesAnyBytesWithoutHarm) {
  constexpr std::uint64_t kSeed = 20261;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  const std::vector<std::byte> good = encode(example_segment({1, 1}));
  constexpr std::size_t kHeaderBytes = 40;
  int refused = 0;

  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes = good;
    for (int change = 0; change < 3; ++change) {
      bytes[random() % kHeaderBytes] = static_cast<std::byte>(random() % 256);
    }
    const auto decoded = decode(bytes);
    // What is accepted is whole, whatever it says.
    if (decoded) {
      EXPECT_EQ(decoded->states.size(), decoded->transitions() * CartPole::kObservationSize);
    } else {
      ++refused;
    }
  }

  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace rl_loop
