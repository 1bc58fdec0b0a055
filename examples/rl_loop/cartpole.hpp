#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>

namespace rl_loop {

/// CartPole-v1 as Gymnasium publishes it (gymnasium/envs/classic_control/cartpole.py, explicit
/// Euler), with the 500-step limit of its registration. Reward is 1 for every step, the one that
/// ends the episode included.
class CartPole {
 public:
  /// Position (m), velocity (m/s), pole angle (rad), pole angular velocity (rad/s).
  using State = std::array<double, 4>;

  struct StepResult {
    float reward = 1.0F;
    bool terminated = false;  ///< The pole fell or the cart left the track.
    bool truncated = false;   ///< The step limit was reached.
  };

  static constexpr int kObservationSize = 4;
  static constexpr int kActionCount = 2;
  static constexpr int kStepLimit = 500;
  static constexpr double kPositionLimit = 2.4;
  static constexpr double kAngleLimit = 12.0 * 2.0 * std::numbers::pi / 360.0;

  /// Starts a new episode, each component uniform in [-0.05, 0.05).
  void reset(std::mt19937_64& random) {
    std::uniform_real_distribution<double> uniform(-0.05, 0.05);
    for (double& component : state_) component = uniform(random);
    steps_ = 0;
  }

  /// Starts a new episode in a given state.
  void reset(const State& state) {
    state_ = state;
    steps_ = 0;
  }

  /// @param action 1 pushes the cart to the right, 0 to the left.
  StepResult step(int action) {
    state_ = dynamics(state_, action);
    ++steps_;
    const bool terminated =
        std::abs(state_[0]) > kPositionLimit || std::abs(state_[2]) > kAngleLimit;
    return {.reward = 1.0F, .terminated = terminated, .truncated = steps_ >= kStepLimit};
  }

  [[nodiscard]] const State& state() const { return state_; }
  [[nodiscard]] int steps() const { return steps_; }

  /// One Euler step: positions advance with the velocities from before the step.
  [[nodiscard]] static State dynamics(const State& state, int action) {
    const auto [x, x_dot, theta, theta_dot] = state;
    const double force = action == 1 ? kForce : -kForce;
    const double cosine = std::cos(theta);
    const double sine = std::sin(theta);
    const double shared = (force + kPoleMassLength * theta_dot * theta_dot * sine) / kTotalMass;
    const double theta_acceleration =
        (kGravity * sine - cosine * shared) /
        (kHalfPoleLength * (4.0 / 3.0 - kPoleMass * cosine * cosine / kTotalMass));
    const double x_acceleration =
        shared - kPoleMassLength * theta_acceleration * cosine / kTotalMass;
    return {x + kTimeStep * x_dot, x_dot + kTimeStep * x_acceleration,
            theta + kTimeStep * theta_dot, theta_dot + kTimeStep * theta_acceleration};
  }

 private:
  static constexpr double kGravity = 9.8;   // m/s^2
  static constexpr double kCartMass = 1.0;  // kg
  static constexpr double kPoleMass = 0.1;  // kg
  static constexpr double kTotalMass = kCartMass + kPoleMass;
  static constexpr double kHalfPoleLength = 0.5;  // m
  static constexpr double kPoleMassLength = kPoleMass * kHalfPoleLength;
  static constexpr double kForce = 10.0;     // N
  static constexpr double kTimeStep = 0.02;  // s

  State state_{};
  int steps_ = 0;
};

}  // namespace rl_loop
