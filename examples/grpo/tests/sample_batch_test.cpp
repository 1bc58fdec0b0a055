#include "sample_batch.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "example_batch.hpp"

namespace grpo {
namespace {

TEST(SampleBatchTest, SurvivesTheWire) {
  const SampleBatch batch = example_batch({11, 12});

  const auto decoded = decode(encode(batch));

  ASSERT_TRUE(decoded.has_value());
  EXPECT_EQ(decoded->tag, batch.tag);
  EXPECT_EQ(decoded->worker, batch.worker);
  EXPECT_EQ(decoded->groups, batch.groups);
  EXPECT_EQ(decoded->group_size, batch.group_size);
  EXPECT_EQ(decoded->prompt_length, batch.prompt_length);
  EXPECT_EQ(decoded->completion_length, batch.completion_length);
  EXPECT_EQ(decoded->log_probs, batch.log_probs);
  EXPECT_EQ(decoded->rewards, batch.rewards);
  EXPECT_EQ(decoded->prompts, batch.prompts);
  EXPECT_EQ(decoded->completions, batch.completions);
}

TEST(SampleBatchTest, CountsTokensUpToTheFirstEnd) {
  SampleBatch batch = example_batch({1, 1}, 1, 2);
  batch.completions = {1, 12, 12, 12, 1, 2, 3, 4};

  EXPECT_EQ(batch.sampled_tokens(), 6U);
}

TEST(SampleBatchTest, RefusesEveryOtherLength) {
  std::vector<std::byte> bytes = encode(example_batch({1, 1}));

  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode(std::span(bytes).first(size)).has_value()) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(decode(bytes).has_value());
}

TEST(SampleBatchTest, RefusesTokensAndNumbersThatDoNotExist) {
  SampleBatch token = example_batch({1, 1});
  token.completions[3] = 13;
  SampleBatch prompt = example_batch({1, 1});
  prompt.prompts[2] = 200;
  SampleBatch number = example_batch({1, 1});
  number.log_probs[1] = std::nanf("");

  EXPECT_FALSE(decode(encode(token)).has_value());
  EXPECT_FALSE(decode(encode(prompt)).has_value());
  EXPECT_FALSE(decode(encode(number)).has_value());
}

TEST(SampleBatchTest, TakesAnyBytesWithoutHarm) {
  constexpr std::uint64_t kBatchSeed = 20264;
  SCOPED_TRACE(kBatchSeed);
  std::mt19937_64 random(kBatchSeed);
  const std::vector<std::byte> good = encode(example_batch({1, 1}));
  constexpr std::size_t kHeaderBytes = 48;
  int refused = 0;

  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes = good;
    for (int change = 0; change < 3; ++change) {
      bytes[random() % kHeaderBytes] = static_cast<std::byte>(random() % 256);
    }
    const auto decoded = decode(bytes);
    // What is accepted is whole, whatever it says.
    if (decoded) {
      EXPECT_EQ(decoded->log_probs.size(), decoded->samples() * decoded->completion_length);
    } else {
      ++refused;
    }
  }

  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace grpo
