// The rollout worker without weightcast: compare with ../worker.cpp.
#include <cstdio>
#include <exception>

#include "clock.hpp"
#include "options.hpp"
#include "pace.hpp"
#include "plain/weight_socket.hpp"
#include "policy.hpp"
#include "proof.hpp"
#include "rollout.hpp"
#include "signals.hpp"
#include "trajectory_socket.hpp"

namespace {

using namespace rl_loop;
using namespace std::chrono_literals;

int work(const WorkerOptions& options) {
  Rollout rollout(options.worker, options.environments, options.steps, options.seed);
  TrajectorySender trajectories(options.directory, options.trainer_ranks);
  ServeProof proof(options.proof);
  Pace pace(options.segments_per_version, options.idle_limit);
  WeightReceiver follower(options.directory);

  while (!stop_requested() && !pace.abandoned()) {
    if (!follower.wait_for(pace.wanted(), Clock::now() + 500ms)) {
      if (pace.waiting_for_first()) continue;
      pace.renew();
    }
    const auto asked_ns = monotonic_ns();
    auto lease = follower.acquire(Clock::now() + 1s);
    proof.begin(lease.version(), *lease, asked_ns);
    const Segment segment = rollout.run(*lease, lease.version());
    proof.end(*lease);
    pace.made(segment.tag);
    trajectories.send(encode(segment), Clock::now() + 100ms);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const WorkerOptions options = parse_worker_options(argc, argv);
  hold_stop_signals();
  try {
    return work(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "worker %u: %s\n", options.worker, error.what());
    return 1;
  }
}
