// A trainer of your own: a small network learns y = sin(x), and publishes itself after every step.
#include <chrono>
#include <cstdio>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>

#include <weightcast/torch.hpp>

int main() try {
  using namespace std::chrono_literals;
  torch::manual_seed(1);
  torch::nn::Sequential network(
      torch::nn::Linear(1, 32), torch::nn::Tanh(), torch::nn::Linear(32, 1));
  weightcast::AttachOptions options{.policy = "sine"};
  options.publisher.min_receivers = 1;  // flush() waits for a worker
  weightcast::Hooked<torch::optim::Adam> optimizer(network->parameters(), 1e-2);
  auto publication = weightcast::attach(optimizer, network.ptr(), options);

  for (int step = 1; step <= 1000; ++step) {
    const auto x = torch::rand({64, 1}) * 6 - 3;
    const auto loss = (network->forward(x) - torch::sin(x)).square().mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();  // publishes, too
    if (step % 100 == 0) {
      std::printf("step %d: loss %.4f\n", step, loss.item<double>());
      const auto verdict = publication.flush(60s).value_or_throw();
      std::printf("version %llu is served by %zu\n",
                  static_cast<unsigned long long>(verdict.version.number), verdict.applied.size());
      std::fflush(stdout);
    }
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "trainer: %s\n", error.what());
  return 1;
}
