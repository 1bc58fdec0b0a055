#include "options.hpp"

#include <CLI/CLI.hpp>

#include "flags.hpp"

namespace grpo {
namespace {

void add_shared(CLI::App& app, SharedOptions& options) {
  app.add_option("--directory", options.directory, "Folder of the sockets")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--device", options.device, "cpu, cuda or cuda:N");
  app.add_option("--size", options.size, "Of the model")
      ->check(CLI::IsMember({"tiny", "small", "medium"}));
  app.add_option("--digits", options.digits, "Of the operands")->check(CLI::Range(1, 4));
  app.add_option("--seed", options.seed, "Seed of the weights, the problems and the samples");
  rl_loop::add_seconds(app, "--idle-limit", options.idle_limit,
                       "Seconds to await the other side");
  app.add_option("--proof", options.proof, "File for one JSON line a version or lease");
}

// What fits a model of this size, before flags say otherwise.
void set_rates(TrainerOptions& options) {
  if (options.size != "medium") return;
  options.grpo.learning_rate = 3e-5;
  options.warm_up.learning_rate = 3e-4;
}

}  // namespace

TrainerOptions parse_trainer_options(int argc, char** argv) {
  TrainerOptions options;
  options.sources.flags = weightcast::take_flags(argc, argv);
  CLI::App app("Teaches a small language model sums by GRPO; started under torchrun --no-python");
  app.option_defaults()->always_capture_default();
  add_shared(app, options);
  app.add_option("--iterations", options.iterations, "Updates by GRPO")->check(CLI::PositiveNumber);
  app.add_option("--batches", options.batches, "Batches a rank puts into one update")
      ->check(CLI::PositiveNumber);
  app.add_option("--goal", options.goal, "Share of the held-out problems to solve at the end")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--held-out", options.held_out, "Problems that success is measured by")
      ->check(CLI::PositiveNumber);
  app.add_option("--evaluate-every", options.evaluate_every, "Iterations")
      ->check(CLI::PositiveNumber);
  const auto* rate =
      app.add_option("--learning-rate", options.grpo.learning_rate, "Of GRPO")
          ->check(CLI::PositiveNumber);
  app.add_option("--clip", options.grpo.clip, "Of the probability ratio")
      ->check(CLI::PositiveNumber);
  app.add_option("--kl", options.grpo.kl_weight, "Weight of the divergence from the first weights")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--epochs", options.grpo.epochs, "Over the samples of an iteration")
      ->check(CLI::PositiveNumber);
  app.add_option("--minibatches", options.grpo.minibatches, "Steps an epoch")
      ->check(CLI::PositiveNumber);
  const auto* warm_rate = app.add_option("--warm-up-learning-rate", options.warm_up.learning_rate,
                                         "Of the supervised warm-up")
                              ->check(CLI::PositiveNumber);
  app.add_option("--warm-up-target", options.warm_up.target,
                 "Share of the held-out problems at which the warm-up ends")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--warm-up-steps", options.warm_up.most_steps, "At which it ends in any case")
      ->check(CLI::NonNegativeNumber);
  rl_loop::add_seconds(app, "--time-limit", options.time_limit, "Seconds after which to give up");
  app.add_option("--metrics", options.metrics, "File for one JSON line an iteration");
  rl_loop::parse_or_exit(app, argc, argv);

  options.grpo.updates = options.iterations;
  TrainerOptions fitting = options;
  set_rates(fitting);
  if (rate->count() == 0) options.grpo.learning_rate = fitting.grpo.learning_rate;
  if (warm_rate->count() == 0) options.warm_up.learning_rate = fitting.warm_up.learning_rate;
  return options;
}

WorkerOptions parse_worker_options(int argc, char** argv) {
  WorkerOptions options;
  options.sources.flags = weightcast::take_flags(argc, argv);
  CLI::App app("Generates answers with the trainer's latest weights");
  app.option_defaults()->always_capture_default();
  add_shared(app, options);
  app.add_option("--worker", options.worker, "Index of this worker")->check(CLI::Range(0, 1023));
  app.add_option("--trainer-ranks", options.trainer_ranks, "Trainer ranks to send to")
      ->check(CLI::Range(1, 1024));
  app.add_option("--groups", options.groups, "Prompts in one batch")->check(CLI::Range(1, 4096));
  app.add_option("--group-size", options.group_size, "Samples of each prompt")
      ->check(CLI::Range(2, 1024));
  app.add_option("--batches-per-version", options.batches_per_version,
                 "Batches to make before awaiting a newer version")
      ->check(CLI::PositiveNumber);
  rl_loop::parse_or_exit(app, argc, argv);
  return options;
}

}  // namespace grpo
