#include "cartpole.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <random>

#include <gtest/gtest.h>

namespace rl_loop {
namespace {

struct Reference {
  int action;
  CartPole::State state;
};

// From (0.01, -0.02, 0.03, 0.04), evaluated from the published equations by a program of its own in
// Python's double precision.
constexpr std::array<Reference, 16> kTrajectory{{
    {1, {0.0096000000000000009, 0.17467919574755525, 0.030799999999999998, -0.24306871796000815}},
    {1, {0.013093583914951107, 0.36934797605795561, 0.025938625640799833, -0.52587962805014843}},
    {0, {0.020480543436110221, 0.17387081260481596, 0.015421033079796864, -0.22513741609237475}},
    {0, {0.023957959688206541, -0.021468102440862946, 0.01091828475794937, 0.072369721293159939}},
    {1, {0.023528597639389283, 0.17349563230427709, 0.012365679183812569, -0.2168485379893767}},
    {0, {0.026998510285474824, -0.021800890523804323, 0.0080287084240250346, 0.07970926647125659}},
    {1, {0.026562492474998738, 0.17320505223717611, 0.0096228937534501673, -0.21042980521761895}},
    {0, {0.03002659351974226, -0.022053158178604565, 0.0054142976490977879, 0.08527303691641136}},
    {0, {0.029585530356170169, -0.21725229973006674, 0.0071197583874260152, 0.37965925334439654}},
    {0, {0.025240484361568834, -0.41247462995636441, 0.014712943454313947, 0.67457851799125612}},
    {1, {0.016990991762441544, -0.2175602088343952, 0.028204513814139069, 0.38656398000020187}},
    {1, {0.01263978758575364, -0.022849756320686837, 0.035935793414143109, 0.10290548957868406}},
    {0, {0.012182792459339902, -0.21846778839593725, 0.037993903205716793, 0.4067059444628347}},
    {1, {0.0078134366914211564, -0.023904612096998318, 0.046128022094973485, 0.12623931928992876}},
    {0, {0.0073353444494811898, -0.21965599634089664, 0.04865280848077206, 0.43311089162691424}},
    {0, {0.0029422245226632567, -0.41543181698566112, 0.057315026313310341, 0.7407254092946941}},
}};

TEST(CartPoleTest, FollowsThePublishedEquations) {
  CartPole environment;
  environment.reset(CartPole::State{0.01, -0.02, 0.03, 0.04});

  for (const Reference& expected : kTrajectory) {
    const auto result = environment.step(expected.action);

    for (std::size_t i = 0; i < expected.state.size(); ++i) {
      EXPECT_NEAR(environment.state()[i], expected.state[i], 1e-14);
    }
    EXPECT_EQ(result.reward, 1.0F);
    EXPECT_FALSE(result.terminated);
    EXPECT_FALSE(result.truncated);
  }
}

TEST(CartPoleTest, EndsWhereThePoleFalls) {
  CartPole environment;
  environment.reset(CartPole::State{});

  int steps = 0;
  CartPole::StepResult result;
  do {
    result = environment.step(1);
    ++steps;
  } while (!result.terminated && steps < CartPole::kStepLimit);

  // The reference of the first test falls after as many pushes, at this angle.
  EXPECT_EQ(steps, 9);
  EXPECT_NEAR(environment.state()[2], -0.21518604988500967, 1e-14);
  EXPECT_EQ(result.reward, 1.0F);
}

TEST(CartPoleTest, EndsBeyondTheTrackOnly) {
  CartPole inside;
  CartPole outside;
  inside.reset(CartPole::State{2.3999, 0.0, 0.0, 0.0});
  outside.reset(CartPole::State{2.3999, 0.01, 0.0, 0.0});

  EXPECT_FALSE(inside.step(0).terminated);
  EXPECT_TRUE(outside.step(0).terminated);
}

TEST(CartPoleTest, IsTruncatedAtTheStepLimit) {
  CartPole environment;
  environment.reset(CartPole::State{});

  // A linear controller that keeps the pole up for as long as it is asked to.
  CartPole::StepResult result;
  int steps = 0;
  do {
    const auto& [x, x_dot, theta, theta_dot] = environment.state();
    result = environment.step(theta + 0.5 * theta_dot + 0.05 * x + 0.1 * x_dot > 0.0 ? 1 : 0);
    ++steps;
  } while (!result.terminated && !result.truncated);

  EXPECT_EQ(steps, 500);
  EXPECT_TRUE(result.truncated);
  EXPECT_FALSE(result.terminated);
}

TEST(CartPoleTest, StartsWithinTheBoundsAndRepeatsPerSeed) {
  std::mt19937_64 first(7);
  std::mt19937_64 second(7);
  CartPole one;
  CartPole other;
  CartPole::State previous{};

  for (int episode = 0; episode < 100; ++episode) {
    one.reset(first);
    other.reset(second);
    EXPECT_EQ(one.state(), other.state());
    EXPECT_NE(one.state(), previous);
    for (const double component : one.state()) EXPECT_LE(std::abs(component), 0.05);
    previous = one.state();
  }
}

}  // namespace
}  // namespace rl_loop
