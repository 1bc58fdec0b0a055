// The trainer: warms a small language model up, publishes it, and improves it by GRPO from what the
// workers generate.
#include <cstdio>
#include <exception>
#include <memory>

#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <weightcast/torch.hpp>

#include "device.hpp"
#include "learner.hpp"
#include "options.hpp"
#include "proof.hpp"
#include "rank_group.hpp"
#include "signals.hpp"

namespace {

using namespace grpo;

int train(const TrainerOptions& options) {
  const c10::Device device = open_device(options.device);
  auto ranks = rl_loop::RankGroup::from_environment(std::chrono::seconds(120));
  torch::manual_seed(options.seed);
  const Arithmetic task(options.digits);
  const auto policy = std::make_shared<LanguageModelImpl>(
      shape_of_size(options.size, Arithmetic::kVocabulary,
                    task.prompt_length() + task.completion_length()));
  policy->to(device);
  const auto rule = torch::optim::AdamWOptions().betas({0.9, 0.95}).weight_decay(0.0);
  weightcast::Hooked<torch::optim::AdamW> optimizer(policy->distinct_parameters(), rule);

  Learner learner(options, ranks, policy, optimizer);
  auto publication = weightcast::attach(
      optimizer, policy, {.policy = "grpo", .every = 0, .config = options.sources});
  rl_loop::PublishProof proof(options.proof, ranks.rank());
  for (bool training = true; training;) {
    publication.publish();
    proof.record(publication.version(), *policy);
    training = learner.improve(publication.version());
  }
  return learner.finish();
}

}  // namespace

int main(int argc, char** argv) {
  const TrainerOptions options = parse_trainer_options(argc, argv);
  rl_loop::hold_stop_signals();
  try {
    return train(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trainer: %s\n", error.what());
    return 1;
  }
}
