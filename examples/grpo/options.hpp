#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include <weightcast/config.hpp>

#include "grpo.hpp"
#include "warm_up.hpp"

namespace grpo {

/// What trainer and workers must be told alike.
struct SharedOptions {
  std::string directory;  ///< Where the sockets are.
  std::string device = "cpu";
  std::string size = "small";  ///< See shape_of_size().
  int digits = 2;              ///< Of the operands.
  std::uint64_t seed = 1;
  std::chrono::seconds idle_limit{60};  ///< Without anything from the other side.
  std::string proof;                    ///< File of JSON lines; empty: none.
  weightcast::ConfigSources sources;    ///< Flags of weightcast's own.
};

struct TrainerOptions : SharedOptions {
  std::uint64_t iterations = 250;
  std::size_t batches = 4;  ///< That a rank puts into one update.
  GrpoOptions grpo;
  WarmUpOptions warm_up;
  double goal = 0.7;  ///< Share of the held-out problems to solve at the end.
  std::size_t held_out = 500;  ///< Problems that success is measured by.
  std::uint64_t evaluate_every = 5;  ///< Iterations.
  std::chrono::seconds time_limit{600};
  std::string metrics;  ///< JSON lines, one an iteration; empty: none.
};

struct WorkerOptions : SharedOptions {
  std::uint32_t worker = 0;  ///< Its index, in the trajectories and in the random sequence.
  int trainer_ranks = 1;
  std::uint32_t groups = 16;     ///< Prompts in one batch.
  std::uint32_t group_size = 8;  ///< Samples of each.
  std::uint32_t batches_per_version = 2;
};

/// Reads the command line. On --help or an error it prints what CLI11 has to say and exits the
/// process, so it is to be called first. Flags that begin with --weightcast. are set aside.
[[nodiscard]] TrainerOptions parse_trainer_options(int argc, char** argv);
[[nodiscard]] WorkerOptions parse_worker_options(int argc, char** argv);

}  // namespace grpo
