// The trainer of the benchmarks: prints one JSON object. Driven by scripts/lib/bench.py.
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>
#include <zmq.hpp>

#include <torch/optim/sgd.h>
#include <weightcast/torch.hpp>

#include "lm_model.hpp"
#include "raw_socket.hpp"

namespace {

using namespace bench;
using weightcast::Clock;
using nlohmann::json;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::size_t bytes_of(const LmImpl& model) {
  std::size_t total = 0;
  for (const auto& p : model.parameters()) total += p.nbytes();
  return total;
}

/// Copies `bytes` bytes between two touched buffers with one memcpy, as the unit of all times.
class MemcpyUnit {
 public:
  explicit MemcpyUnit(std::size_t bytes) : from_(bytes, 1), to_(bytes, 2) { measure(); }
  double measure() {
    const auto start = Clock::now();
    std::memcpy(to_.data(), from_.data(), from_.size());
    const double took = seconds_since(start);
    // What was copied is looked at, so that the copy cannot be left out.
    if (to_[from_.size() / 2] != from_[from_.size() / 2]) std::abort();
    ++from_[from_.size() / 2];
    return took;
  }

 private:
  std::vector<unsigned char> from_, to_;
};

struct Options {
  std::string mode = "publish";
  std::string dtype = "f32";
  std::string cast;
  std::string socket = "ipc";
  std::string directory;
  int workers = 1;
  int rounds = 20;
  std::int64_t tokens = 32;
  bool without = false;
  bool tiny = false;
};

torch::ScalarType scalar_type(const std::string& name) {
  return name == "bf16" ? torch::kBFloat16 : torch::kFloat32;
}

weightcast::AttachOptions attach_options(const Options& options) {
  weightcast::AttachOptions attach;
  attach.policy = "bench";
  attach.every = 0;
  if (options.cast == "bf16") attach.dtype = weightcast::DType::kBF16;
  attach.publisher.min_receivers = static_cast<std::uint32_t>(options.workers);
  attach.publisher.stall = std::chrono::seconds(5);
  attach.publisher.max_coalesced = 0;
  return attach;
}

void check(const weightcast::Result<weightcast::Verdict>& verdict) {
  if (!verdict) throw weightcast::Error(verdict.status());
}

/// Publish point to APPLIED by all, the trainer being idle; each beside a memcpy of the same bytes.
json publish(const Options& options) {
  auto model = std::make_shared<LmImpl>(scalar_type(options.dtype));
  const std::size_t published = options.cast.empty() ? bytes_of(*model) : bytes_of(*model) / 2;
  MemcpyUnit unit(published);
  auto publication = weightcast::attach(model, attach_options(options));
  check(publication.flush(std::chrono::seconds(60)));
  json rounds = json::array();
  torch::NoGradGuard no_grad;
  for (int i = 0; i < options.rounds; ++i) {
    model->norm.add_(1e-3);  // another version
    const double memcpy_s = unit.measure();
    const auto point = publication.publish();
    if (point.kind != weightcast::PointResult::Kind::kCaptured) {
      throw std::runtime_error("a point was not captured: " + point.why);
    }
    check(publication.flush(std::chrono::seconds(60)));
    const auto status = publication.status();
    rounds.push_back({{"memcpy_s", memcpy_s},
                      {"capture_s", std::chrono::duration<double>(status.last_capture).count()},
                      {"applied_s", std::chrono::duration<double>(status.last_apply).count()}});
  }
  return {{"bytes", published}, {"tensors", model->parameters().size()}, {"rounds", rounds}};
}

/// The same without weightcast: all parameters in one message, published over a ZeroMQ socket as the
/// plain twin of the example does it, or written to a stream socket straight from the tensors.
json raw(const Options& options) {
  LmImpl model(scalar_type(options.dtype));
  const std::size_t bytes = bytes_of(model);
  MemcpyUnit unit(bytes);
  RawSender sender(options.directory, options.workers, options.socket == "stream");
  json rounds = json::array();
  for (int i = 0; i < options.rounds + 1; ++i) {
    const double memcpy_s = unit.measure();
    const auto start = Clock::now();
    sender.send(model.parameters());
    sender.wait_applied();
    const double applied_s = seconds_since(start);
    if (i == 0) continue;  // pages of the receivers are new
    rounds.push_back({{"memcpy_s", memcpy_s}, {"applied_s", applied_s}});
  }
  return {{"bytes", bytes}, {"rounds", rounds}};
}

/// A training loop that publishes every step, beside the same loop without weightcast.
json loop(const Options& options) {
  auto model = std::make_shared<LmImpl>(scalar_type(options.dtype));
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(1e-4));
  weightcast::Publication publication;
  if (!options.without) {
    auto attach = attach_options(options);
    attach.publisher.stall = std::chrono::milliseconds(100);
    attach.publisher.max_coalesced = ~std::uint64_t{0};
    publication = weightcast::attach(model, attach);
    check(publication.flush(std::chrono::seconds(60)));
  }
  json steps = json::array();
  for (int i = 0; i < options.rounds; ++i) {
    const auto start = Clock::now();
    const torch::Tensor tokens = torch::randint(model->shape.vocabulary, {options.tokens});
    optimizer.zero_grad();
    model->forward(tokens).logsumexp(1).mean().backward();
    double fence_s = 0;
    double hook_s = 0;
    std::string kind = "none";
    const auto before_fence = Clock::now();
    if (publication) {
      if (!publication.fence()) kind = "stalled";
      fence_s = seconds_since(before_fence);
    }
    optimizer.step();
    if (publication) {
      const auto before_hook = Clock::now();
      const auto point = publication.publish();
      hook_s = seconds_since(before_hook);
      kind = point.kind == weightcast::PointResult::Kind::kCaptured    ? "captured"
             : point.kind == weightcast::PointResult::Kind::kCoalesced ? "coalesced"
                                                                       : "void";
    }
    steps.push_back({{"step_s", seconds_since(start)},
                     {"fence_s", fence_s},
                     {"hook_s", hook_s},
                     {"point", kind}});
  }
  json result{{"steps", steps}, {"tensors", model->parameters().size()}};
  if (publication) result["voided"] = publication.status().voided;
  return result;
}

/// Publishes a few versions and then does nothing until its standard input ends: for memory and idle cost.
json idle(const Options& options) {
  auto model = std::make_shared<LmImpl>(scalar_type(options.dtype), options.tiny ? kTinyLm : LmShape{});
  auto publication = weightcast::attach(model, attach_options(options));
  for (int i = 0; i < 4; ++i) {  // each worker has used all that it will use
    publication.publish();
    check(publication.flush(std::chrono::seconds(60)));
  }
  std::puts("ready");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  return {{"bytes", bytes_of(*model)}};
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("The trainer of the benchmarks");
  app.add_option("--mode", options.mode)->check(CLI::IsMember({"publish", "raw", "loop", "idle"}));
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--cast", options.cast)->check(CLI::IsMember({"bf16"}));
  app.add_option("--socket", options.socket)->check(CLI::IsMember({"ipc", "stream"}));
  app.add_option("--directory", options.directory);
  app.add_option("--workers", options.workers);
  app.add_option("--rounds", options.rounds);
  app.add_option("--tokens", options.tokens);
  app.add_flag("--without", options.without);
  app.add_flag("--tiny", options.tiny, "idle: a policy of next to no bytes");
  CLI11_PARSE(app, argc, argv);
  try {
    torch::manual_seed(1);
    const json result = options.mode == "publish" ? publish(options)
                        : options.mode == "raw"   ? raw(options)
                        : options.mode == "loop"  ? loop(options)
                                                  : idle(options);
    std::printf("%s\n", result.dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_trainer: %s\n", error.what());
    return 1;
  }
}
