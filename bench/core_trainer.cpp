// A trainer of the benchmarks, without torch. Prints JSON lines; leaves when its standard input
// ends. Driven by scripts/lib/bench_network.py.
//
//   --task step   training steps one after the other, each with its time; publishes every --every
//                 steps, and after the step in which it reads a line "publish"
//   --task bring  waits for --receivers engines, then publishes --rounds versions, each when all
//   have
//                 the one before, with the time from the publish point until the last had applied
//                 it
//   --task load   the steps alone, without a publisher
//
// A line "status" is answered with the publisher's status and this process's memory.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <weightcast/config.hpp>
#include <weightcast/publisher.hpp>

#include "core_support.hpp"

namespace {

using namespace bench;
using namespace std::chrono_literals;
using weightcast::Clock;
using weightcast::Publisher;
using weightcast::PublisherOptions;

struct Options {
  std::string task = "step";
  std::uint64_t bytes = 64'000'000;
  int tensors = 32;
  std::string dtype = "bf16";
  std::string mode = "broadcast";
  std::string transport = "auto";
  std::uint32_t slots = 4;
  std::uint64_t slot_bytes = 0;
  int rounds = 5;
  int receivers = 1;
  int every = 0;
  double step_ms = 25;
};

/// Weights of some size in plain memory.
class Policy {
 public:
  explicit Policy(const Options& options) {
    const auto dtype = options.dtype == "f32" ? weightcast::DType::kF32 : weightcast::DType::kBF16;
    const std::size_t size = weightcast::dtype_size(dtype);
    const std::size_t columns = 1024;
    const std::uint64_t rows =
        options.bytes / static_cast<std::uint64_t>(options.tensors) / (size * columns);
    if (rows == 0) throw std::runtime_error("--bytes is too small for so many --tensors");
    for (int i = 0; i < options.tensors; ++i) {
      auto bytes = std::make_shared<std::vector<std::byte>>(rows * columns * size);
      for (std::size_t at = 0; at < bytes->size(); ++at) {
        (*bytes)[at] = static_cast<std::byte>(at * 31 >> 3);
      }
      infos_.push_back({"layer." + std::to_string(i) + ".weight",
                        {},
                        dtype,
                        {static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns)}});
      bytes_ += bytes->size();
      memory_.push_back(std::move(bytes));
    }
  }

  std::uint64_t bytes() const noexcept { return bytes_; }

  /// What an optimizer step does, in small: another version.
  void change(std::uint64_t number) {
    for (const auto& memory : memory_) std::memcpy(memory->data(), &number, sizeof number);
  }

  Publisher::Lister lister() {
    return [this](weightcast::TensorList& list) {
      for (std::size_t i = 0; i < infos_.size(); ++i) {
        list.tensors.push_back({infos_[i], memory_[i]->data(), {}});
      }
      return weightcast::Status::ok();
    };
  }

 private:
  std::vector<weightcast::TensorInfo> infos_;
  std::vector<std::shared_ptr<std::vector<std::byte>>> memory_;
  std::uint64_t bytes_ = 0;
};

/// A training step on one thread: multiply and add over memory of its own, always as often.
class Work {
 public:
  explicit Work(double step_ms) : values_(1u << 21, 1.0f) {  // 8 MiB
    std::vector<double> milliseconds;
    for (int i = 0; i < 400; ++i) {
      const auto start = Clock::now();
      pass();
      milliseconds.push_back(
          std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    }
    // Of the fast ones: the first passes compete with the start of everything else.
    constexpr int kFast = 40;
    std::nth_element(milliseconds.begin(), milliseconds.begin() + kFast, milliseconds.end());
    passes_ = std::max(1, static_cast<int>(step_ms / milliseconds[kFast] + 0.5));
  }
  void step() {
    for (int i = 0; i < passes_; ++i) pass();
  }

 private:
  void pass() {
    for (float& value : values_) value = value * 0.999f + 0.001f;
  }
  std::vector<float> values_;
  int passes_ = 0;
};

PublisherOptions publisher_options(const Options& options) {
  PublisherOptions base;
  base.policy = "bench";
  base.mode = options.mode == "p2p" ? weightcast::Mode::kP2p : weightcast::Mode::kBroadcast;
  base.transport = options.transport == "tcp"   ? weightcast::TransportChoice::kTcp
                   : options.transport == "shm" ? weightcast::TransportChoice::kShm
                                                : weightcast::TransportChoice::kAuto;
  base.slots = options.slots;
  base.slot_bytes = options.slot_bytes;
  base.stall = 5s;
  base.attempt_timeout = 5min;
  if (options.task == "bring") {
    base.min_receivers = static_cast<std::uint32_t>(options.receivers);
    base.max_coalesced = 0;
  }
  return base;
}

class Trainer {
 public:
  explicit Trainer(const Options& options) : options_(options), policy_(options) {}

  int run() {
    auto configured = weightcast::configure(publisher_options(options_), {});
    auto publisher = configured ? Publisher::open(*configured, policy_.lister())
                                : weightcast::Result<Publisher>(configured.status());
    if (!publisher) {
      emit({{"kind", "refused"}, {"why", publisher.status().to_string()}});
      return 3;
    }
    publisher_.emplace(std::move(*publisher));
    emit({{"kind", "started"}, {"bytes", policy_.bytes()}, {"at_ns", now_ns()}});
    if (options_.task == "bring") return bring();
    return step();
  }

  /// Steps without a publisher.
  int load() {
    Work work(options_.step_ms);
    emit({{"kind", "started"}, {"at_ns", now_ns()}});
    while (commands_.next(0ms) != "leave") work.step();
    return 0;
  }

 private:
  void report() {
    const auto status = publisher_->status();
    json receivers = json::object();
    for (const auto& receiver : status.receivers) {
      receivers[receiver.name] = receiver.serving.number;
    }
    emit({{"kind", "status"},
          {"published", status.published.number},
          {"committed", status.committed.number},
          {"captured", status.captured},
          {"coalesced", status.coalesced},
          {"voided", status.voided},
          {"blocked", status.blocked},
          {"refused_messages", status.refused_messages},
          {"sent_bytes", status.sent_bytes},
          {"receivers", receivers},
          {"capture_s", std::chrono::duration<double>(status.last_capture).count()},
          {"applied_s", std::chrono::duration<double>(status.last_apply).count()},
          {"slot_bytes", publisher_->options().slot_bytes},
          {"memory", memory_.report()},
          {"at_ns", now_ns()}});
  }

  int step() {
    constexpr int kStepsALine = 10;
    Work work(options_.step_ms);
    emit({{"kind", "stepping"}, {"at_ns", now_ns()}});
    json times = json::array();
    bool publish = false;
    for (std::uint64_t number = 1;; ++number) {
      while (const auto line = commands_.next(0ms)) {
        if (line == "leave") return 0;
        if (line == "publish") publish = true;
        if (line == "status") report();
      }
      const std::int64_t start = now_ns();
      work.step();
      [[maybe_unused]] const auto fenced = publisher_->fence();
      policy_.change(number);
      const bool due = publish || (options_.every > 0 &&
                                   number % static_cast<std::uint64_t>(options_.every) == 0);
      weightcast::PointResult point;
      if (due) point = publisher_->publish(policy_.lister());
      const std::int64_t end = now_ns();
      times.push_back({end, static_cast<double>(end - start) / 1e6});
      if (due) {
        const bool captured = point.kind == weightcast::PointResult::Kind::kCaptured;
        emit({{"kind", "point"},
              {"number", point.point},
              {"captured", captured},
              {"why", point.why},
              {"sent_bytes", publisher_->status().sent_bytes},
              {"at_ns", end}});
        if (captured) publish = false;
      }
      if (times.size() == kStepsALine) {
        emit({{"kind", "steps"}, {"steps", times}});
        times.clear();
      }
    }
  }

  int bring() {
    const auto patience = Clock::now() + 2min;
    while (publisher_->status().receivers.size() < static_cast<std::size_t>(options_.receivers)) {
      if (Clock::now() > patience) throw std::runtime_error("the engines did not come");
      if (commands_.next(5ms) == "leave") return 0;
    }
    for (int round = 0; round < options_.rounds; ++round) {
      policy_.change(static_cast<std::uint64_t>(round) + 1);
      const auto point = publisher_->publish(policy_.lister());
      const auto verdict = publisher_->flush(Clock::now() + 5min, policy_.lister());
      if (!verdict) throw std::runtime_error(verdict.status().to_string());
      const auto status = publisher_->status();
      emit({{"kind", "applied"},
            {"number", verdict->version.number},
            {"receivers", verdict->applied.size()},
            {"at_first", verdict->version.number == point.point},
            {"capture_s", std::chrono::duration<double>(status.last_capture).count()},
            {"applied_s", std::chrono::duration<double>(status.last_apply).count()},
            {"sent_bytes", status.sent_bytes}});
    }
    for (;;) {
      const auto line = commands_.next(1s);
      if (line == "leave") return 0;
      if (line == "status") report();
    }
  }

  const Options options_;
  Memory memory_;
  Policy policy_;
  Commands commands_;
  std::optional<Publisher> publisher_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("A trainer of the benchmarks, without torch");
  app.add_option("--task", options.task)->check(CLI::IsMember({"step", "bring", "load"}));
  app.add_option("--bytes", options.bytes);
  app.add_option("--tensors", options.tensors)->check(CLI::Range(1, 100'000));
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"bf16", "f32"}));
  app.add_option("--mode", options.mode)->check(CLI::IsMember({"broadcast", "p2p"}));
  app.add_option("--transport", options.transport)->check(CLI::IsMember({"shm", "tcp", "auto"}));
  app.add_option("--slots", options.slots);
  app.add_option("--slot-bytes", options.slot_bytes);
  app.add_option("--rounds", options.rounds);
  app.add_option("--receivers", options.receivers);
  app.add_option("--every", options.every);
  app.add_option("--step-ms", options.step_ms);
  CLI11_PARSE(app, argc, argv);
  try {
    Trainer trainer(options);
    return options.task == "load" ? trainer.load() : trainer.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "core_trainer: %s\n", error.what());
    return 1;
  }
}
