#include "arithmetic.hpp"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace grpo {
namespace {

TEST(ArithmeticTest, WritesPromptsPaddedAndAnswersBackwards) {
  const Arithmetic task(2);

  EXPECT_EQ(task.prompt({7, 25}), "07+25=");
  EXPECT_EQ(task.answer({7, 25}), "23.");
  EXPECT_EQ(task.answer({99, 99}), "891.");
  EXPECT_EQ(task.answer({0, 0}), "0.");
}

TEST(ArithmeticTest, HasRoomForEveryPromptAndAnswer) {
  for (int digits = 2; digits <= 4; ++digits) {
    const Arithmetic task(digits);
    const auto largest = static_cast<std::uint32_t>(std::stoi(std::string(digits, '9')));
    const Problem problem{largest, largest};

    EXPECT_EQ(static_cast<std::int64_t>(task.prompt(problem).size()), task.prompt_length());
    EXPECT_EQ(static_cast<std::int64_t>(task.answer(problem).size()), task.completion_length());
  }
}

TEST(ArithmeticTest, RewardsTheExactAnswerAlone) {
  const Arithmetic task(2);
  const Problem problem{7, 25};

  EXPECT_EQ(task.reward(problem, "23."), 1.0F);
  EXPECT_EQ(task.reward(problem, "23..."), 1.0F);  // What follows the end was not sampled.
  EXPECT_EQ(task.reward(problem, "32."), 0.0F);
  EXPECT_EQ(task.reward(problem, "23"), 0.0F);
  EXPECT_EQ(task.reward(problem, "230."), 0.0F);
  EXPECT_EQ(task.reward(problem, "2.3."), 0.0F);
  EXPECT_EQ(task.reward(problem, "2+3."), 0.0F);
  EXPECT_EQ(task.reward(problem, ""), 0.0F);
}

TEST(ArithmeticTest, NeverDrawsWhatIsHeldOut) {
  constexpr std::uint64_t kSumSeed = 20262;
  SCOPED_TRACE(kSumSeed);
  const Arithmetic task(2);
  std::mt19937_64 random(kSumSeed);
  const std::vector<Problem> held_out = task.held_out(10'000);
  ASSERT_FALSE(held_out.empty());

  for (int i = 0; i < 5000; ++i) {
    const Problem problem = task.draw(random);
    EXPECT_EQ(std::count(held_out.begin(), held_out.end(), problem), 0);
  }
}

TEST(ArithmeticTest, HoldsOutDifferentProblemsOfAllSizes) {
  const Arithmetic task(2);

  const std::vector<Problem> all = task.held_out(10'000);
  const std::vector<Problem> some = task.held_out(200);

  EXPECT_GT(all.size(), 400U);
  EXPECT_LT(all.size(), 600U);
  ASSERT_EQ(some.size(), 200U);
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin()));
  std::vector<std::uint32_t> keys;
  std::uint32_t largest = 0;
  std::uint32_t smallest = 100;
  for (const Problem& problem : some) {
    keys.push_back(problem.left * 100 + problem.right);
    largest = std::max(largest, problem.left);
    smallest = std::min(smallest, problem.left);
  }
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::unique(keys.begin(), keys.end()), keys.end());
  EXPECT_LT(smallest, 10U);
  EXPECT_GE(largest, 90U);
}

TEST(ArithmeticTest, ReadsBackWhatItWrites) {
  const std::string text = "0123456789+=.";

  EXPECT_EQ(to_text(to_tokens(text)), text);
  EXPECT_EQ(to_tokens(".").front(), Arithmetic::kEnd);
}

TEST(ArithmeticTest, RefusesOperandsThatDoNotFit) {
  EXPECT_ANY_THROW(Arithmetic(1));
  EXPECT_ANY_THROW(Arithmetic(5));
}

}  // namespace
}  // namespace grpo
