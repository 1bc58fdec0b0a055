#include "objective.hpp"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/types.h>

namespace grpo {
namespace {

void expect_near(const torch::Tensor& got, const torch::Tensor& want, double tolerance = 1e-5) {
  ASSERT_EQ(got.sizes(), want.sizes());
  EXPECT_TRUE(torch::allclose(got, want, 0.0, tolerance)) << got << "\nexpected\n" << want;
}

TEST(GroupAdvantagesTest, MeasureEachSampleByItsOwnGroup) {
  const torch::Tensor rewards = torch::tensor({{1.0F, 0.0F, 0.0F, 0.0F}, {3.0F, 1.0F, 3.0F, 1.0F}});

  const torch::Tensor advantages = group_advantages(rewards);

  // Means 1/4 and 2; deviations 1/2 and sqrt(4/3).
  const float high = 1.0F / (std::sqrt(4.0F / 3.0F) + 1e-4F);
  expect_near(advantages, torch::tensor({{0.75F / 0.5001F, -0.25F / 0.5001F, -0.25F / 0.5001F,
                                          -0.25F / 0.5001F},
                                         {high, -high, high, -high}}));
}

TEST(GroupAdvantagesTest, AreZeroWhereAllSamplesAreAlike) {
  const torch::Tensor rewards = torch::tensor({{1.0F, 1.0F, 1.0F}, {0.0F, 0.0F, 0.0F}});

  expect_near(group_advantages(rewards), torch::zeros({2, 3}), 0.0);
}

TEST(ClippedObjectiveTest, TakesTheSmallerOfRatioAndClippedRatio) {
  const torch::Tensor behaviour = torch::full({2, 4}, -1.0);
  const torch::Tensor ratio = torch::tensor({{0.5F, 0.9F, 1.1F, 2.0F}, {0.5F, 0.9F, 1.1F, 2.0F}});
  const torch::Tensor advantages = torch::tensor({{3.0F}, {-3.0F}});

  const torch::Tensor objective =
      clipped_objective(behaviour + ratio.log(), behaviour, advantages, 0.2);

  expect_near(objective, 3.0 * torch::tensor({{0.5F, 0.9F, 1.1F, 1.2F},
                                              {-0.8F, -0.9F, -1.1F, -2.0F}}));
}

TEST(ClippedObjectiveTest, HasNoGradientWhereItIsClipped) {
  const torch::Tensor behaviour = torch::zeros({1, 4});
  const torch::Tensor log_probs =
      torch::tensor({{0.5F, 2.0F, 1.1F, 0.9F}}).log().detach().set_requires_grad(true);

  clipped_objective(log_probs, behaviour, torch::ones({1, 1}), 0.2).sum().backward();

  // d ratio / d log p is the ratio itself.
  expect_near(log_probs.grad(), torch::tensor({{0.5F, 0.0F, 1.1F, 0.9F}}));
}

TEST(K3Test, IsWhatItsFormulaSaysAndNeverNegative) {
  const torch::Tensor policy = torch::tensor({{0.5F, 0.25F, 0.9F}});
  const torch::Tensor reference = torch::tensor({{0.25F, 0.5F, 0.9F}});

  const torch::Tensor divergence = k3_divergence(policy.log(), reference.log());

  expect_near(divergence, torch::tensor({{0.5F + std::log(2.0F) - 1.0F,
                                          2.0F - std::log(2.0F) - 1.0F, 0.0F}}));
  EXPECT_GE(divergence.min().item<float>(), 0.0F);
}

TEST(K3Test, HasTheKlDivergenceAsItsMeanOverThePolicy) {
  const torch::Tensor policy = torch::tensor({{0.7F, 0.2F, 0.1F}});
  const torch::Tensor reference = torch::tensor({{0.4F, 0.4F, 0.2F}});

  const torch::Tensor mean = (policy * k3_divergence(policy.log(), reference.log())).sum();

  expect_near(mean, (policy * (policy / reference).log()).sum());
}

TEST(SampledMaskTest, EndsWithTheFirstEndToken) {
  const torch::Tensor completions =
      torch::tensor({{1, 2, 12, 12}, {12, 12, 12, 12}, {1, 2, 3, 4}, {1, 2, 3, 12}});

  expect_near(sampled_mask(completions, 12), torch::tensor({{1.0F, 1.0F, 1.0F, 0.0F},
                                                            {1.0F, 0.0F, 0.0F, 0.0F},
                                                            {1.0F, 1.0F, 1.0F, 1.0F},
                                                            {1.0F, 1.0F, 1.0F, 1.0F}}));
}

TEST(SequenceMeanTest, WeighsShortAndLongSequencesAlike) {
  const torch::Tensor values = torch::tensor({{4.0F, 100.0F, 100.0F}, {1.0F, 2.0F, 3.0F}});
  const torch::Tensor mask = torch::tensor({{1.0F, 0.0F, 0.0F}, {1.0F, 1.0F, 1.0F}});

  EXPECT_FLOAT_EQ(sequence_mean(values, mask).item<float>(), 3.0F);
}

}  // namespace
}  // namespace grpo
