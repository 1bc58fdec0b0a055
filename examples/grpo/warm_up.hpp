#pragma once

#include <cstdint>
#include <span>

#include "arithmetic.hpp"
#include "language_model.hpp"

namespace grpo {

struct WarmUpOptions {
  double learning_rate = 2e-3;
  double target = 0.3;          ///< Share of the held-out problems at which it ends.
  int most_steps = 1000;        ///< At which it ends in any case.
  std::int64_t batch = 128;     ///< Problems a step.
  int check_every = 10;         ///< Steps between two looks at the held-out problems.
};

struct WarmUp {
  int steps = 0;
  double success = 0.0;  ///< Share of the held-out problems solved at its end.
};

/// Supervised training on right answers to drawn problems, until the model solves some: from random
/// weights no sample ever earns a reward, and without one there is nothing to reinforce. Ends long
/// before the task is learned. The same seed takes the same steps.
WarmUp warm_up(LanguageModelImpl& model, const Arithmetic& task,
               std::span<const Problem> held_out, const WarmUpOptions& options,
               std::uint64_t seed);

}  // namespace grpo
