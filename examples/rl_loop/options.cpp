#include "options.hpp"

#include <CLI/CLI.hpp>

#include "flags.hpp"

namespace rl_loop {
TrainerOptions parse_trainer_options(int argc, char** argv) {
  TrainerOptions options;
  CLI::App app("Trains CartPole-v1 by PPO; started under torchrun --no-python");
  app.option_defaults()->always_capture_default();
  app.add_option("--directory", options.directory, "Folder of the sockets")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--seed", options.seed, "Seed of the weights and of the minibatches");
  app.add_option("--segments", options.segments, "Segments a rank puts into one update")
      ->check(CLI::PositiveNumber);
  app.add_option("--goal", options.goal, "Mean return that ends the training");
  app.add_option("--goal-episodes", options.goal_episodes, "Episodes the mean is taken over")
      ->check(CLI::PositiveNumber);
  app.add_option("--min-updates", options.min_updates, "Updates not to stop before");
  add_seconds(app, "--time-limit", options.time_limit, "Seconds after which to give up");
  add_seconds(app, "--idle-limit", options.idle_limit, "Seconds to await a trajectory");
  app.add_option("--metrics", options.metrics, "File for one JSON line an iteration");
  app.add_option("--proof", options.proof, "File for one JSON line a published version");
  parse_or_exit(app, argc, argv);
  return options;
}

WorkerOptions parse_worker_options(int argc, char** argv) {
  WorkerOptions options;
  CLI::App app("Plays CartPole-v1 with the trainer's latest policy");
  app.option_defaults()->always_capture_default();
  app.add_option("--directory", options.directory, "Folder of the sockets")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--worker", options.worker, "Index of this worker")->check(CLI::Range(0, 1023));
  app.add_option("--seed", options.seed, "Seed of the episodes");
  app.add_option("--trainer-ranks", options.trainer_ranks, "Trainer ranks to send to")
      ->check(CLI::Range(1, 1024));
  app.add_option("--environments", options.environments, "Environments played at once")
      ->check(CLI::Range(1, 4096));
  app.add_option("--steps", options.steps, "Steps of each environment in one segment")
      ->check(CLI::Range(1, 65536));
  app.add_option("--segments-per-version", options.segments_per_version,
                 "Segments to make before awaiting a newer version")
      ->check(CLI::PositiveNumber);
  add_seconds(app, "--idle-limit", options.idle_limit, "Seconds to await a new version");
  app.add_option("--proof", options.proof, "File for one JSON line a lease");
  parse_or_exit(app, argc, argv);
  return options;
}

}  // namespace rl_loop
