#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace rl_loop {

struct TrainerOptions {
  std::string directory;  ///< Where the sockets are; the same for trainer and workers.
  std::uint64_t seed = 1;
  std::size_t segments = 4;  ///< That a rank puts into one update.
  double goal = 475.0;       ///< Mean return over the window that ends the training.
  std::size_t goal_episodes = 100;
  std::uint64_t min_updates = 80;  ///< Not to stop before.
  std::chrono::seconds time_limit{300};
  std::chrono::seconds idle_limit{60};  ///< Without any trajectory.
  std::string metrics;                  ///< JSON lines, one an iteration; empty: none.
  std::string proof;                    ///< JSON lines, one a published version; empty: none.
};

struct WorkerOptions {
  std::string directory;
  std::uint32_t worker = 0;  ///< Its index, in the trajectories and in the random sequence.
  std::uint64_t seed = 1;
  int trainer_ranks = 1;
  std::uint32_t environments = 8;
  std::uint32_t steps = 64;  ///< Of each environment in one segment.
  std::uint32_t segments_per_version = 4;
  std::chrono::seconds idle_limit{60};  ///< Without a new version.
  std::string proof;
};

/// Reads the command line. On --help or an error it prints what CLI11 has to say and exits the
/// process, so it is to be called first.
[[nodiscard]] TrainerOptions parse_trainer_options(int argc, char** argv);
[[nodiscard]] WorkerOptions parse_worker_options(int argc, char** argv);

}  // namespace rl_loop
