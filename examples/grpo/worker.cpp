// The rollout worker: generates answers with the trainer's latest weights, under one lease a batch.
#include <cstdio>
#include <exception>
#include <memory>

#include <weightcast/torch.hpp>

#include "clock.hpp"
#include "device.hpp"
#include "generation.hpp"
#include "options.hpp"
#include "pace.hpp"
#include "proof.hpp"
#include "signals.hpp"
#include "trajectory_socket.hpp"

namespace {

using namespace grpo;
using namespace std::chrono_literals;
using rl_loop::Clock;

int work(const WorkerOptions& options) {
  const c10::Device device = open_device(options.device);
  const Arithmetic task(options.digits);
  const ModelShape shape = shape_of_size(options.size, Arithmetic::kVocabulary,
                                         task.prompt_length() + task.completion_length());
  const auto make_model = [&] {
    auto model = std::make_shared<LanguageModelImpl>(shape);
    model->to(device);
    model->eval();
    return model;
  };
  Generator generator(options.worker, task, options.groups, options.group_size, options.seed);
  rl_loop::TrajectorySender trajectories(options.directory, options.trainer_ranks);
  rl_loop::ServeProof proof(options.proof);
  rl_loop::Pace pace(options.batches_per_version, options.idle_limit);
  weightcast::SubscriberOptions subscriber;
  if (device.is_cuda()) subscriber.device = device.index();
  weightcast::Follower follower(
      make_model, {.policy = "grpo", .subscriber = subscriber, .config = options.sources});

  while (!rl_loop::stop_requested() && !pace.abandoned()) {
    if (!follower.wait_for(pace.wanted(), Clock::now() + 500ms)) {
      if (pace.waiting_for_first()) continue;
      pace.renew();
    }
    const auto asked_ns = rl_loop::monotonic_ns();
    auto lease = follower.acquire(Clock::now() + 1s);
    proof.begin(lease.version(), *lease, asked_ns);
    const SampleBatch batch = generator.run(*lease, lease.version());
    proof.end(*lease);
    lease.release();
    pace.made(batch.tag);
    trajectories.send(encode(batch), Clock::now() + 100ms);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const WorkerOptions options = parse_worker_options(argc, argv);
  rl_loop::hold_stop_signals();
  try {
    return work(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worker %u: %s\n", options.worker, error.what());
    return 1;
  }
}
