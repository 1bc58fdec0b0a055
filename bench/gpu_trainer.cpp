// A trainer of the benchmarks on a device, without torch. Prints JSON lines; leaves when its
// standard input ends. Driven by scripts/lib/bench_gpu.py, by lines:
//
//   next           another version of the weights, published when the device has it, and the verdict
//                  on it: the next line is read when all have applied it
//   step           another version of the weights that is not published
//   storm N        N points one after the other, as fast as they go
//   block KIND N   N training steps of --step-ms each, with (KIND with) or without (KIND without)
//                  publishing at each
//   hash on|off    whether the hash of the bytes is taken, and said, before each publish point
//   status
//   arm FAILPOINT SIGNAL
//   leave
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include <weightcast/config.hpp>

#include "gpu_loop.hpp"
#include "gpu_options.hpp"
#include "gpu_policy.hpp"

namespace {

using namespace bench;
using namespace std::chrono_literals;
using weightcast::Clock;
using weightcast::PointResult;
using weightcast::Publisher;
using weightcast::PublisherOptions;

struct Options {
  int device = 0;
  std::uint64_t bytes = 0;
  bool buffers = false;
  double step_ms = 1000;
  double deadline_s = 60;
  std::uint64_t seed = 0;  ///< trainers of different seeds have different bytes at the same point
};

/// How a point went, on the host's clock.
struct Taken {
  PointResult point;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

class Trainer {
 public:
  Trainer(const Options& options, PublisherOptions publish)
      : options_(options),
        publish_(std::move(publish)),
        device_(open(options.device)),
        policy_(device_, {Shape::of_bytes(options.bytes), options.buffers, publish_.rank,
                          publish_.world_size}),
        stream_(device_) {
    policy_.become(number_, stream_);
    stream_.await();
  }

  int run() {
    emit({{"kind", "weights"},
          {"bytes", policy_.bytes()},
          {"tensors", policy_.count()},
          {"taken", taken(device_, memory_)}});
    const json before = taken(device_, memory_);
    const std::int64_t begin = now_ns();
    auto configured = weightcast::configure(publish_, {});
    auto publisher = configured ? Publisher::open(*configured, policy_.lister(stream_))
                                : weightcast::Result<Publisher>(configured.status());
    if (!publisher) {
      emit({{"kind", "refused"}, {"why", publisher.status().to_string()}});
      return 3;
    }
    publisher_.emplace(std::move(*publisher));
    emit({{"kind", "started"},
          {"open_s", static_cast<double>(now_ns() - begin) / 1e9},
          {"before", before},
          {"taken", taken(device_, memory_)},
          {"slots", publisher_->options().slots},
          {"slot_bytes", publisher_->options().slot_bytes}});
    for (;;) {
      const auto line = commands_.next(1s);
      if (line == "leave") return 0;
      if (line) obey(*line);
    }
  }

 private:
  Device open(int index) {
    emit({{"kind", "begun"}, {"pid", ::getpid()}});
    Device device = Device::open(index);
    Buffer context(device, 1 << 20);  // the first allocation brings the context's own memory
    emit({{"kind", "device"},
          {"name", must(device.cuda->properties(index)).name},
          {"taken", taken(device, memory_)}});
    return device;
  }

  void obey(const std::string& line) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    if (word == "next") bring();
    if (word == "step") {
      step();
      emit({{"kind", "stepped"}});
    }
    if (word == "storm") {
      int points = 0;
      words >> points;
      storm(points);
    }
    if (word == "block") {
      std::string kind;
      int steps = 0;
      words >> kind >> steps;
      block(kind == "with", steps);
    }
    if (word == "hash") {
      words >> word;
      is_hashing_ = word == "on";
    }
    if (word == "arm") {
      std::string fault;
      std::getline(words, fault);
      Fault::arm(fault);
      emit({{"kind", "armed"}});
    }
    if (word == "status") status();
  }

  /// Another version in the tensors, as a step leaves it: the device has come to its end.
  void step() {
    const auto fenced = publisher_->fence();
    if (!fenced) emit({{"kind", "fence"}, {"why", fenced.to_string()}});
    policy_.become(++number_, stream_);
    stream_.await();
  }

  Taken publish() {
    Taken taken;
    taken.begin = now_ns();
    taken.point = publisher_->publish(policy_.lister(stream_));
    taken.end = now_ns();
    return taken;
  }

  static json described(const Taken& taken) {
    return {{"number", taken.point.point},
            {"captured", taken.point.kind == PointResult::Kind::kCaptured},
            {"why", taken.point.why},
            {"at_ns", taken.begin},
            {"hook_us", static_cast<double>(taken.end - taken.begin) / 1e3}};
  }

  void bring() {
    step();
    const std::string hash = is_hashing_ ? policy_.hash(stream_) : "";
    const Taken taken = publish();
    json line = described(taken);
    line["kind"] = "point";
    line["hash"] = hash;
    emit(line);
    const auto patience = std::chrono::duration<double>(options_.deadline_s);
    const auto verdict =
        publisher_->flush(Clock::now() + std::chrono::duration_cast<Clock::duration>(patience),
                          policy_.lister(stream_));
    const auto seen = publisher_->status();
    json said = {{"kind", "verdict"},
                 {"point", taken.point.point},
                 {"number", verdict ? verdict->version.number : 0},
                 {"why", verdict ? "" : verdict.status().to_string()},
                 {"hash", hash},
                 {"committed", seen.committed.number},
                 {"capture_s", std::chrono::duration<double>(seen.last_capture).count()},
                 {"applied_s", std::chrono::duration<double>(seen.last_apply).count()},
                 {"at_ns", now_ns()}};
    if (verdict) {
      said["applied"] = verdict->applied;
      said["lost"] = verdict->lost;
    }
    emit(said);
  }

  void storm(int points) {
    for (int i = 0; i < points; ++i) {
      step();
      const std::string hash = is_hashing_ ? policy_.hash(stream_) : "";
      json line = described(publish());
      line["kind"] = "point";
      line["hash"] = hash;
      emit(line);
    }
    emit({{"kind", "stormed"}});
  }

  /// The times of each step: whole; on the host in the fence and in the hook; of the stream between
  /// its events around the two, in which it waits or copies for us.
  void block(bool with, int steps) {
    if (!work_) work_.emplace(device_, options_.step_ms, stream_);
    json all = json::array();
    Event before_fence(device_), after_fence(device_), before_hook(device_), after_hook(device_);
    for (int i = 0; i < steps; ++i) {
      const std::int64_t begin = now_ns();
      work_->queue(stream_);
      before_fence.record(stream_.native());
      const std::int64_t fence = now_ns();
      const bool fenced = !with || publisher_->fence().is_ok();
      const std::int64_t fence_end = now_ns();
      after_fence.record(stream_.native());
      policy_.become(++number_, stream_);
      before_hook.record(stream_.native());
      Taken taken;
      if (with) taken = publish();
      after_hook.record(stream_.native());
      after_hook.await();
      const std::int64_t end = now_ns();
      all.push_back({{"step_ms", static_cast<double>(end - begin) / 1e6},
                     {"fence_us", static_cast<double>(fence_end - fence) / 1e3},
                     {"fenced", fenced},
                     {"hook_us", static_cast<double>(taken.end - taken.begin) / 1e3},
                     {"captured", with && taken.point.kind == PointResult::Kind::kCaptured},
                     {"why", taken.point.why},
                     {"stream_fence_us",
                      static_cast<double>(after_fence.nanoseconds_since(before_fence)) / 1e3},
                     {"stream_hook_us",
                      static_cast<double>(after_hook.nanoseconds_since(before_hook)) / 1e3}});
    }
    std::string why;
    if (with) {
      const auto verdict = publisher_->flush(Clock::now() + 60s, policy_.lister(stream_));
      if (!verdict) why = verdict.status().to_string();
    }
    emit({{"kind", "block"}, {"with", with}, {"steps", all}, {"why", why}});
  }

  void status() {
    const auto seen = publisher_->status();
    json receivers = json::object();
    for (const auto& receiver : seen.receivers) {
      receivers[receiver.name] = {{"serving", receiver.serving.number}, {"state", receiver.state}};
    }
    emit({{"kind", "status"},
          {"published", seen.published.number},
          {"committed", seen.committed.number},
          {"captured", seen.captured},
          {"coalesced", seen.coalesced},
          {"voided", seen.voided},
          {"blocked", seen.blocked},
          {"drifted", seen.drifted},
          {"receivers", receivers},
          {"taken", taken(device_, memory_)}});
  }

  const Options options_;
  const PublisherOptions publish_;
  Memory memory_;
  Device device_;
  DevicePolicy policy_;
  Stream stream_;
  Commands commands_;
  std::optional<FakeWork> work_;
  std::optional<Publisher> publisher_;
  std::uint64_t number_ = options_.seed * 1'000'000'007 + 1;  ///< of the bytes in the tensors
  bool is_hashing_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  PublisherOptions publish;
  publish.policy = "bench";
  publish.launch = "bench";
  std::string mode = "broadcast";
  std::string transport = "auto";
  std::string staging = "auto";
  double stall_ms = 1000;
  double attempt_s = 60;
  CLI::App app("A trainer of the benchmarks on a device, without torch");
  app.add_option("--device", options.device);
  app.add_option("--bytes", options.bytes, "of the policy; 0: Qwen3-8B's");
  app.add_flag("--buffers", options.buffers, "with a few buffers");
  app.add_option("--step-ms", options.step_ms);
  app.add_option("--deadline-s", options.deadline_s, "of a verdict");
  app.add_option("--rank", publish.rank);
  app.add_option("--world", publish.world_size);
  app.add_option("--mode", mode)->check(CLI::IsMember({"broadcast", "p2p"}));
  app.add_option("--transport", transport)->check(CLI::IsMember(kTransports));
  app.add_option("--staging", staging)->check(CLI::IsMember(kStagings));
  app.add_option("--device-budget", publish.device_budget);
  app.add_option("--slots", publish.slots);
  app.add_option("--slot-bytes", publish.slot_bytes);
  app.add_option("--stall-ms", stall_ms);
  app.add_option("--attempt-s", attempt_s);
  app.add_option("--seed", options.seed);
  CLI11_PARSE(app, argc, argv);
  publish.mode = mode == "p2p" ? weightcast::Mode::kP2p : weightcast::Mode::kBroadcast;
  publish.transport = kTransports.at(transport);
  publish.staging = kStagings.at(staging);
  publish.trusted_fabric = true;  // the fabric is this host
  const auto duration = [](double seconds) {
    return std::chrono::duration_cast<weightcast::Duration>(std::chrono::duration<double>(seconds));
  };
  publish.stall = duration(stall_ms / 1e3);
  publish.attempt_timeout = duration(attempt_s);
  try {
    return Trainer(options, publish).run();
  } catch (const std::exception& error) {
    emit({{"kind", "failed"}, {"why", error.what()}});
    std::fprintf(stderr, "gpu_trainer: %s\n", error.what());
    return 1;
  }
}
