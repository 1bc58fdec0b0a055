// A rollout worker of the benchmarks: takes versions in until it is ended. Driven by
// scripts/lib/bench.py.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include <weightcast/torch.hpp>

#include "lm_model.hpp"
#include "raw_socket.hpp"

int main(int argc, char** argv) {
  std::string activation = "view";
  std::string dtype = "f32";
  std::string socket;
  std::string directory;
  int worker = 0;
  bool forward = false;
  bool tiny = false;
  CLI::App app("A rollout worker of the benchmarks");
  app.add_option("--activation", activation)->check(CLI::IsMember({"view", "flip"}));
  app.add_option("--dtype", dtype)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--raw", socket)->check(CLI::IsMember({"ipc", "stream"}));
  app.add_option("--directory", directory);
  app.add_option("--worker", worker);
  app.add_flag("--forward", forward, "run one forward on the first version, then say so");
  app.add_flag("--tiny", tiny, "a policy of next to no bytes");
  CLI11_PARSE(app, argc, argv);
  const auto type = dtype == "bf16" ? torch::kBFloat16 : torch::kFloat32;
  try {
    torch::NoGradGuard no_grad;
    if (!socket.empty()) {
      bench::LmImpl model(type);
      bench::receive_raw(directory, worker, socket == "stream", model.parameters());
      return 0;
    }
    weightcast::FollowerOptions options;
    options.policy = "bench";
    options.name = "worker-" + std::to_string(worker);
    options.subscriber.activation =
        activation == "flip" ? weightcast::Activation::kFlip : weightcast::Activation::kView;
    const bench::LmShape shape = tiny ? bench::kTinyLm : bench::LmShape{};
    weightcast::Follower<bench::LmImpl> follower([&] { return bench::LmImpl(type, shape); }, options);
    if (forward) {
      auto lease = follower.acquire(std::chrono::seconds(60));
      const double sum = lease->forward(torch::arange(16)).sum().item<double>();
      lease.release();
      std::printf("forward %g\n", sum);
      std::fflush(stdout);
    }
    while (std::getchar() != EOF) {
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_worker: %s\n", error.what());
    return 1;
  }
}
