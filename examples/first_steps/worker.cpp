// A rollout worker of your own: computes with each version, until none has come for three seconds.
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
  const torch::NoGradGuard no_grad;
  for (unsigned long long seen = 0; follower.wait_for(seen + 1, seen == 0 ? 60s : 3s);) {
    auto lease = follower.acquire(60s);
    seen = lease.version().number;
    const double y = lease->forward(torch::ones({1, 1})).item<double>();
    std::printf("version %llu: sin(1) = %.3f\n", seen, y);
  }
  std::printf("the trainer publishes no more\n");
} catch (const std::exception& error) {
  std::fprintf(stderr, "worker: %s\n", error.what());
  return 1;
}
