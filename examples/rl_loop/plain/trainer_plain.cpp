// The trainer without weightcast: compare with ../trainer.cpp.
#include <cstdio>
#include <exception>
#include <memory>

#include <torch/optim/adam.h>
#include <torch/utils.h>

#include "learner.hpp"
#include "options.hpp"
#include "plain/weight_socket.hpp"
#include "policy.hpp"
#include "proof.hpp"
#include "rank_group.hpp"
#include "signals.hpp"

namespace {

using namespace rl_loop;

int train(const TrainerOptions& options) {
  RankGroup ranks = RankGroup::from_environment(std::chrono::seconds(30));
  torch::manual_seed(options.seed);
  const auto policy = make_policy();
  const auto rule = torch::optim::AdamOptions().eps(1e-5);
  torch::optim::Adam optimizer(policy->parameters(), rule);
  WeightSender publication(*policy, ranks, options.directory);

  Learner learner(options, ranks, policy, optimizer);
  PublishProof proof(options.proof, ranks.rank());
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
  hold_stop_signals();
  try {
    return train(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "trainer: %s\n", error.what());
    return 1;
  }
}
