// A rollout worker of your own: computes with the newest version until the trainer has made the last.
#include <chrono>
#include <cstdio>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <weightcast/torch.hpp>

int main() try {
  using namespace std::chrono_literals;
  const auto make = [] {
    torch::nn::Sequential network(
        torch::nn::Linear(1, 32), torch::nn::Tanh(), torch::nn::Linear(32, 1));
    return network.ptr();
  };
  weightcast::Follower follower(make, {.policy = "sine"});

  for (std::uint64_t seen = 0; seen < 1000;) {
    if (const auto status = follower.wait_for(seen + 1, 60s); !status) throw weightcast::Error(status);
    auto lease = follower.acquire(60s);
    seen = lease.version().number;
    const torch::NoGradGuard no_grad;
    const double y = lease->forward(torch::ones({1, 1})).item<double>();
    std::printf("version %llu: sin(1) = %.3f\n", static_cast<unsigned long long>(seen), y);
    std::fflush(stdout);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "worker: %s\n", error.what());
  return 1;
}
