#include "language_model.hpp"

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "arithmetic.hpp"
#include "generation.hpp"
#include "grpo.hpp"

namespace grpo {
namespace {

constexpr std::uint64_t kSeed = 20263;
constexpr double kTolerance = 1e-5;

class LanguageModelTest : public testing::Test {
 protected:
  LanguageModelTest() {
    torch::manual_seed(kSeed);
    shape_ = {.vocabulary = Arithmetic::kVocabulary, .context = 12, .width = 32, .layers = 3,
              .heads = 4};
    model_ = std::make_shared<LanguageModelImpl>(shape_);
    tokens_ = torch::randint(0, shape_.vocabulary, {5, shape_.context}, torch::kLong);
  }

  ModelShape shape_;
  std::shared_ptr<LanguageModelImpl> model_;
  torch::Tensor tokens_;
};

// Reads `tokens` in steps of these sizes through a cache and compares with one full forward.
void expect_same_logits(LanguageModelImpl& model, const torch::Tensor& tokens,
                        const std::vector<std::int64_t>& steps) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor whole = model.forward(tokens);
  KeyValueCache cache(model.shape(), tokens.size(0), model.embedding());
  for (const std::int64_t step : steps) {
    const std::int64_t before = cache.length();
    const torch::Tensor part = model.forward(tokens.narrow(1, before, step), &cache);
    EXPECT_TRUE(torch::allclose(part, whole.narrow(1, before, step), 0.0, kTolerance))
        << step << " tokens after " << before;
  }
  EXPECT_EQ(cache.length(), tokens.size(1));
}

TEST_F(LanguageModelTest, GivesTheSameLogitsTokenByTokenThroughACache) {
  expect_same_logits(*model_, tokens_, std::vector<std::int64_t>(12, 1));
}

TEST_F(LanguageModelTest, GivesTheSameLogitsForAPromptAndSingleTokens) {
  expect_same_logits(*model_, tokens_, {6, 1, 1, 1, 1, 1, 1});
}

TEST_F(LanguageModelTest, GivesTheSameLogitsInSeveralPiecesThroughACache) {
  expect_same_logits(*model_, tokens_, {4, 3, 1, 4});
}

TEST_F(LanguageModelTest, SeesNothingOfWhatFollows) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor before = model_->forward(tokens_);
  torch::Tensor changed = tokens_.clone();
  changed.select(1, 7).add_(1).remainder_(shape_.vocabulary);

  const torch::Tensor after = model_->forward(changed);

  EXPECT_TRUE(torch::allclose(before.narrow(1, 0, 7), after.narrow(1, 0, 7), 0.0, kTolerance));
  EXPECT_FALSE(torch::allclose(before.narrow(1, 7, 5), after.narrow(1, 7, 5), 0.0, 1e-3));
}

TEST_F(LanguageModelTest, KeepsARepeatedCacheApartFromItsOrigin) {
  const torch::NoGradGuard no_grad;
  KeyValueCache read(shape_, 5, model_->embedding());
  model_->forward(tokens_.narrow(1, 0, 6), &read);
  KeyValueCache cache = read.repeated(2);
  const torch::Tensor next = tokens_.narrow(1, 6, 1).repeat_interleave(2, 0);

  const torch::Tensor twice = model_->forward(next, &cache);

  EXPECT_EQ(read.length(), 6);
  const torch::Tensor once = model_->forward(tokens_.narrow(1, 6, 1), &read);
  EXPECT_TRUE(torch::allclose(twice, once.repeat_interleave(2, 0), 0.0, kTolerance));
}

TEST_F(LanguageModelTest, RefusesMoreThanItsContextHolds) {
  KeyValueCache cache(shape_, 5, model_->embedding());
  model_->forward(tokens_.narrow(1, 0, 8), &cache);

  EXPECT_ANY_THROW(model_->forward(tokens_.narrow(1, 0, 5), &cache));
  EXPECT_ANY_THROW(model_->forward(torch::zeros({1, 13}, torch::kLong)));
}

TEST_F(LanguageModelTest, TiesItsHeadToItsEmbedding) {
  const auto named = model_->named_parameters();

  EXPECT_TRUE(named["head"].is_same(named["embedding"]));
  EXPECT_EQ(model_->distinct_parameters().size() + 1, model_->parameters().size());
}

TEST_F(LanguageModelTest, SamplesWithTheLogProbabilitiesOfAFullForward) {
  const Arithmetic task(2);
  const std::vector<Problem> problems{{1, 2}, {34, 56}, {99, 0}};
  const torch::Tensor prompts = prompt_tokens(task, problems, torch::kCPU);
  const std::int64_t length = task.completion_length();

  const Completions completions = generate(*model_, prompts, 16, length, false);

  ASSERT_EQ(completions.tokens.sizes(), (std::vector<std::int64_t>{48, length}));
  const torch::NoGradGuard no_grad;
  const torch::Tensor sequences =
      torch::cat({prompts.repeat_interleave(16, 0), completions.tokens.clone()}, 1);
  const torch::Tensor full = completion_log_probs(*model_, sequences, task.prompt_length());
  const torch::Tensor tokens = completions.tokens.clone();
  for (std::int64_t row = 0; row < 48; ++row) {
    bool has_ended = false;
    for (std::int64_t at = 0; at < length; ++at) {
      const float got = completions.log_probs[row][at].item<float>();
      if (has_ended) {
        EXPECT_EQ(tokens[row][at].item<std::int64_t>(), Arithmetic::kEnd);
        EXPECT_EQ(got, 0.0F);
      } else {
        EXPECT_NEAR(got, full[row][at].item<float>(), kTolerance);
      }
      has_ended = has_ended || tokens[row][at].item<std::int64_t>() == Arithmetic::kEnd;
    }
  }
}

TEST_F(LanguageModelTest, ChoosesTheLikeliestTokensWhenGreedy) {
  const Arithmetic task(2);
  const std::vector<Problem> problems{{12, 34}};
  const torch::Tensor prompts = prompt_tokens(task, problems, torch::kCPU);

  const Completions completions = generate(*model_, prompts, 1, 2, true);

  const torch::NoGradGuard no_grad;
  const std::int64_t likeliest =
      model_->forward(prompts).select(1, -1).argmax(-1).item<std::int64_t>();
  EXPECT_EQ(completions.tokens.clone()[0][0].item<std::int64_t>(), likeliest);
}

TEST(ModelShapeTest, RefusesWhatCannotBe) {
  EXPECT_ANY_THROW(static_cast<void>(shape_of_size("large", 13, 10)));
  EXPECT_ANY_THROW(LanguageModelImpl(
      {.vocabulary = 13, .context = 10, .width = 30, .layers = 1, .heads = 4}));
}

}  // namespace
}  // namespace grpo
