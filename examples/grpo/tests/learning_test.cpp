// What an update does to the weights, and the trainer's end of the trajectories.
#include <stdlib.h>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "example_batch.hpp"
#include "generation.hpp"
#include "grpo.hpp"
#include "proof.hpp"
#include "rank_group.hpp"
#include "sample_collector.hpp"
#include "warm_up.hpp"

namespace grpo {
namespace {

using namespace std::chrono_literals;
using rl_loop::Clock;
using rl_loop::WeightTag;

std::shared_ptr<LanguageModelImpl> tiny_model() {
  torch::manual_seed(7);
  return std::make_shared<LanguageModelImpl>(shape_of_size("tiny", Arithmetic::kVocabulary, 10));
}

double log_prob_of(LanguageModelImpl& model, const std::string& text) {
  const torch::NoGradGuard no_grad;
  std::vector<std::int64_t> tokens;
  for (const std::uint8_t token : to_tokens(text)) tokens.push_back(token);
  return completion_log_probs(model, torch::tensor(tokens, torch::kLong).unsqueeze(0), 6)
      .sum()
      .item<double>();
}

// Samples of the model itself, with the true log probabilities, rewarded by the rule.
SampleBatch own_batch(LanguageModelImpl& model) {
  SampleBatch batch = example_batch({1, 1}, 2, 4);
  for (std::size_t i = 0; i < batch.samples(); ++i) {
    const double log_prob = log_prob_of(model, i % 2 == 0 ? "07+25=23." : "07+25=43.") / 3.0;
    for (std::size_t token = 0; token < 3; ++token) {
      batch.log_probs[i * 4 + token] = static_cast<float>(log_prob);
    }
  }
  return batch;
}

void update_times(LanguageModelImpl& model, const std::shared_ptr<LanguageModelImpl>& shared,
                  GrpoOptions options, int times) {
  torch::optim::AdamW optimizer(model.distinct_parameters());
  rl_loop::RankGroup alone(nullptr, 0, 1, 1s);
  options.learning_rate = 1e-2;
  Grpo grpo(options, shared, optimizer, alone, 1);
  for (int i = 0; i < times; ++i) {
    const SampleBatch batch = own_batch(model);
    grpo.update({&batch, 1});
  }
}

TEST(GrpoTest, MakesRewardedAnswersMoreLikelyThanOthersOfTheirGroup) {
  const auto model = tiny_model();
  const auto preference = [&] {
    return log_prob_of(*model, "07+25=23.") - log_prob_of(*model, "07+25=43.");
  };
  const double before = preference();

  update_times(*model, model, {}, 10);

  EXPECT_GT(preference(), before + 0.5);
}

TEST(GrpoTest, LearnsNothingFromGroupsWithoutADifference) {
  const auto model = tiny_model();
  torch::optim::AdamW optimizer(model->distinct_parameters(),
                                torch::optim::AdamWOptions().weight_decay(0.0));
  rl_loop::RankGroup alone(nullptr, 0, 1, 1s);
  Grpo grpo({}, model, optimizer, alone, 1);
  SampleBatch batch = own_batch(*model);
  std::fill(batch.rewards.begin(), batch.rewards.end(), 1.0F);
  const std::uint64_t before = rl_loop::hash_tensors(*model);

  grpo.update({&batch, 1});

  EXPECT_EQ(rl_loop::hash_tensors(*model), before);
}

TEST(GrpoTest, StaysNearerToItsReferenceWithAWeightOnTheDivergence) {
  const auto moved_by = [](double kl_weight) {
    const auto model = tiny_model();
    const double before = log_prob_of(*model, "07+25=43.");
    update_times(*model, model, {.kl_weight = kl_weight}, 10);
    return before - log_prob_of(*model, "07+25=43.");
  };

  EXPECT_LT(moved_by(5.0), 0.5 * moved_by(0.0));
}

TEST(GrpoTest, KeepsItsTiedWeightsTied) {
  const auto model = tiny_model();

  update_times(*model, model, {}, 1);

  const auto named = model->named_parameters();
  EXPECT_TRUE(named["head"].is_same(named["embedding"]));
}

TEST(GrpoTest, RepeatsItselfGivenSeedAndSamples) {
  const auto train = [] {
    const auto model = tiny_model();
    update_times(*model, model, {}, 2);
    return rl_loop::hash_tensors(*model);
  };

  EXPECT_EQ(train(), train());
}

TEST(WarmUpTest, TakesTheSameStepsForTheSameSeedAndLowersTheLoss) {
  const Arithmetic task(2);
  const std::vector<Problem> held_out = task.held_out(50);
  const WarmUpOptions options{.target = 1.0, .most_steps = 20};
  const auto first = tiny_model();
  const auto second = tiny_model();
  const double before = log_prob_of(*first, "07+25=23.");

  const WarmUp warm = warm_up(*first, task, held_out, options, 3);
  warm_up(*second, task, held_out, options, 3);

  EXPECT_EQ(warm.steps, 20);
  EXPECT_EQ(rl_loop::hash_tensors(*first), rl_loop::hash_tensors(*second));
  EXPECT_GT(log_prob_of(*first, "07+25=23."), before);
}

TEST(GeneratorTest, RewardsByTheRuleAndNeverAsksWhatIsHeldOut) {
  const auto model = tiny_model();
  const Arithmetic task(2);
  Generator generator(2, task, 32, 4, 1);

  const SampleBatch batch = generator.run(*model, {5, 6});

  EXPECT_EQ(batch.tag, WeightTag(5, 6));
  ASSERT_TRUE(decode(encode(batch)).has_value());
  for (std::size_t i = 0; i < batch.samples(); ++i) {
    const std::string prompt =
        to_text(std::span(batch.prompts).subspan(i / batch.group_size * 6, 6));
    const Problem problem{static_cast<std::uint32_t>(std::stoi(prompt.substr(0, 2))),
                          static_cast<std::uint32_t>(std::stoi(prompt.substr(3, 2)))};
    EXPECT_FALSE(task.is_held_out(problem)) << prompt;
    const std::string text = to_text(std::span(batch.completions).subspan(i * 4, 4));
    EXPECT_EQ(batch.rewards[i], task.reward(problem, text)) << prompt << text;
  }
}

class SampleCollectorTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "grpo_test.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string directory_;
};

TEST_F(SampleCollectorTest, KeepsWhatIsFreshAndOfTheFirstShape) {
  SampleCollector collector(directory_, 0);
  rl_loop::TrajectorySender sender(directory_, 1);
  const auto soon = Clock::now() + 20s;
  for (const WeightTag tag : {WeightTag(1, 3), WeightTag(1, 4), WeightTag(2, 5)}) {
    ASSERT_TRUE(sender.send(encode(example_batch(tag)), soon));
  }
  ASSERT_TRUE(sender.send(encode(example_batch({1, 5}, 3, 2)), soon));
  ASSERT_TRUE(sender.send(encode(example_batch({1, 5})), soon));

  ASSERT_EQ(collector.collect({1, 5}, 2, soon), 2U);

  EXPECT_EQ(collector.counts().stale, 2U);
  EXPECT_EQ(collector.counts().malformed, 1U);
  EXPECT_EQ(collector.counts().samples, 16U);
  EXPECT_EQ(collector.counts().rewards, 8.0);
  const std::vector<SampleBatch> taken = collector.take(1);
  ASSERT_EQ(taken.size(), 1U);
  EXPECT_EQ(taken[0].tag.number, 5U);
  EXPECT_EQ(collector.collect({1, 6}, 1, Clock::now()), 0U);
}

}  // namespace
}  // namespace grpo
