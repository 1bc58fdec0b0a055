// An engine of the benchmarks on a device, without torch: takes versions in until its standard
// input ends, and prints JSON lines. Driven by scripts/lib/bench_gpu.py, by lines:
//
//   hash on|off      whether it says the hash of each version that it gets a lease on
//   decode MS|off    reads the leased weights on a stream of its own, step after step, each of
//   about
//                    MS milliseconds, and measures the gaps between steps
//   status           with the gaps since the last one
//   arm FAILPOINT SIGNAL
//   leave
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include <weightcast/config.hpp>

#include "gpu_options.hpp"
#include "gpu_policy.hpp"

namespace {

using namespace bench;
using namespace std::chrono_literals;
using weightcast::Clock;
using weightcast::Lease;
using weightcast::Subscriber;
using weightcast::SubscriberOptions;

struct Options {
  std::uint32_t ranks = 1;       ///< hashes for so many ranks of the trainer
  std::uint64_t leave_free = 0;  ///< takes the device's memory but for so much; 0: none
};

/// Steps that read weights, and the gaps between them.
class Decoder {
 public:
  Decoder(const Device& device, double milliseconds)
      : device_(device),
        milliseconds_(milliseconds),
        stream_(device),
        to_(device, kScratch),
        begins_{Event(device), Event(device)},
        ends_{Event(device), Event(device)} {}

  /// One step on what is leased; blocks until the device has done it. Lets go of the lease.
  void step(Lease lease) {
    choose(lease.image());
    const std::size_t now = steps_ % 2;
    begins_[now].record(stream_.native());
    stream_.copy(items_);
    ends_[now].record(stream_.native());
    lease.release_after(stream_.native());
    ends_[now].await();
    const std::int64_t end = now_ns();
    if (has_last_) {
      gaps_.push_back(begins_[now].nanoseconds_since(ends_[1 - now]));
      intervals_.push_back(end - last_end_);
      if (gaps_.back() > longest_) {
        longest_ = gaps_.back();
        longest_at_ = end;
      }
    }
    took_.push_back(ends_[now].nanoseconds_since(begins_[now]));
    if (bytes_ == 0) calibrate();
    last_end_ = end;
    has_last_ = true;
    ++steps_;
  }

  json report_and_clear() {
    json report = {{"gap_us", spread(std::exchange(gaps_, {}))},
                   {"interval_us", spread(std::exchange(intervals_, {}))},
                   {"step_us", spread(std::exchange(took_, {}))},
                   {"longest_at_ns", std::exchange(longest_at_, 0)}};
    longest_ = 0;
    has_last_ = false;
    return report;
  }

 private:
  static constexpr std::uint64_t kScratch = 256u << 20;

  /// After a first step of a known size, how many bytes take the wanted time.
  void calibrate() {
    if (++tries_ < 5) return;
    const double one = static_cast<double>(took_.back()) / 1e6;
    bytes_ = static_cast<std::uint64_t>(static_cast<double>(queued_) * milliseconds_ /
                                        std::max(one, 1e-3));
    chosen_ = {};
    report_and_clear();
  }

  /// What a step reads: the image's tensors, over and over where they are too few.
  void choose(const weightcast::PolicyImage& image) {
    if (chosen_ == image.version()) return;
    chosen_ = image.version();
    items_.clear();
    queued_ = 0;
    const std::uint64_t wanted = bytes_ > 0 ? bytes_ : 2 * kScratch;
    while (queued_ < wanted) {
      const std::uint64_t before = queued_;
      for (const auto& tensor : image.tensors()) {
        const std::uint64_t bytes = std::min({tensor.info.bytes(), kScratch, wanted - queued_});
        if (bytes == 0 || tensor.info.bytes() < 4096) continue;
        items_.push_back({to_.data(), tensor.data, bytes});
        queued_ += bytes;
      }
      if (queued_ == before) break;
    }
  }

  Device device_;
  const double milliseconds_;
  Stream stream_;
  Buffer to_;
  std::array<Event, 2> begins_, ends_;
  std::vector<CopyItem> items_;
  weightcast::Version chosen_;  ///< whose tensors items_ names
  std::uint64_t bytes_ = 0, queued_ = 0, steps_ = 0;
  int tries_ = 0;
  std::vector<std::int64_t> gaps_, intervals_, took_;
  std::int64_t last_end_ = 0, longest_ = 0, longest_at_ = 0;
  bool has_last_ = false;
};

class Engine {
 public:
  Engine(const Options& options, const SubscriberOptions& subscribe)
      : options_(options),
        subscribe_(subscribe),
        device_(open(subscribe.device)),
        hasher_(device_),
        stream_(device_) {}

  int run() {
    if (options_.leave_free > 0) {
      const auto room = must(device_.cuda->memory(device_.index));
      if (room.free > options_.leave_free) hog_ = Buffer(device_, room.free - options_.leave_free);
    }
    const json before = taken(device_, memory_);
    auto configured = weightcast::configure(subscribe_, {});
    auto subscriber = configured ? Subscriber::open(*configured)
                                 : weightcast::Result<Subscriber>(configured.status());
    if (!subscriber) {
      emit({{"kind", "refused"}, {"why", subscriber.status().to_string()}});
      return 3;
    }
    subscriber_.emplace(std::move(*subscriber));
    emit({{"kind", "started"},
          {"before", before},
          {"taken", taken(device_, memory_)},
          {"name", subscriber_->options().name}});
    const auto token = subscriber_->after_apply([](const weightcast::Version& version) {
      emit({{"kind", "version"},
            {"run", weightcast::to_string(version.run)},
            {"number", version.number},
            {"at_ns", now_ns()}});
    });
    for (;;) {
      const bool is_busy = is_hashing_ || decoder_;
      const auto line = commands_.next(decoder_ ? 0ms : is_busy ? 1ms : 1000ms);
      if (line == "leave") return 0;
      if (line) obey(*line);
      if (is_busy) serve();
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
    if (line.starts_with("arm ")) {
      Fault::arm(line.substr(4));
      emit({{"kind", "armed"}});
    }
    if (line.starts_with("hash ")) {
      is_hashing_ = line == "hash on";
      hashed_ = {};  // what is served is hashed, once more if need be
    }
    if (line.starts_with("decode ")) {
      decoder_.reset();
      const double milliseconds = std::strtod(line.c_str() + 7, nullptr);
      if (milliseconds > 0) decoder_.emplace(device_, milliseconds);
    }
    if (line != "status") return;
    const auto seen = subscriber_->status();
    emit({{"kind", "status"},
          {"serving", seen.serving.number},
          {"published", seen.published.number},
          {"attached", seen.attached},
          {"activation", word_of(kActivations, seen.activation)},
          {"activation_reason", seen.activation_reason},
          {"transport", seen.transport},
          {"transport_reason", seen.transport_reason},
          {"applied", seen.applied},
          {"failed", seen.failed},
          {"last_failure", seen.last_failure},
          {"rejoined", seen.rejoined},
          {"dirty", seen.dirty},
          {"lagging", seen.lagging},
          {"resent", seen.resent_buckets},
          {"corrupt", seen.corrupt_buckets},
          {"stage_s", std::chrono::duration<double>(seen.last_stage).count()},
          {"decode", decoder_ ? decoder_->report_and_clear() : json()},
          {"taken", taken(device_, memory_)}});
  }

  /// What is there, if anything is; the gap counts on while nothing is.
  void serve() {
    auto lease = subscriber_->acquire(Clock::now() + 2ms);
    if (!lease) return;
    if (is_hashing_ && lease->version() != hashed_) {
      hashed_ = lease->version();
      hash(*lease);
    }
    if (decoder_) decoder_->step(std::move(*lease));
  }

  void hash(const Lease& lease) {
    std::vector<weightcast::TensorInfo> infos;
    std::vector<const void*> data;
    for (const auto& tensor : lease.image().tensors()) {
      infos.push_back(tensor.info);
      data.push_back(tensor.data);
    }
    emit({{"kind", "hashed"},
          {"run", weightcast::to_string(lease.version().run)},
          {"number", lease.version().number},
          {"hashes", hasher_.hashes(infos, data, options_.ranks, stream_)}});
  }

  const Options options_;
  const SubscriberOptions subscribe_;
  Memory memory_;
  Device device_;
  Hasher hasher_;
  Stream stream_;
  Buffer hog_;
  std::optional<Decoder> decoder_;
  Commands commands_;
  weightcast::Version hashed_;
  bool is_hashing_ = false;
  std::optional<Subscriber> subscriber_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  SubscriberOptions subscribe;
  subscribe.policy = "bench";
  subscribe.device = 0;
  std::string activation = "auto";
  std::string transport = "auto";
  CLI::App app("An engine of the benchmarks on a device, without torch");
  app.add_option("--device", subscribe.device);
  app.add_option("--name", subscribe.name);
  app.add_option("--activation", activation)->check(CLI::IsMember(kActivations));
  app.add_option("--transport", transport)->check(CLI::IsMember(kTransports));
  app.add_option("--memory-budget", subscribe.memory_budget);
  app.add_option("--bucket-bytes", subscribe.bucket_bytes);
  app.add_option("--ranks", options.ranks, "of the trainer, each with a hash of its own");
  app.add_option("--leave-free", options.leave_free, "take the rest of the device's memory first");
  CLI11_PARSE(app, argc, argv);
  subscribe.activation = kActivations.at(activation);
  subscribe.transport = kTransports.at(transport);
  try {
    return Engine(options, subscribe).run();
  } catch (const std::exception& error) {
    emit({{"kind", "failed"}, {"why", error.what()}});
    std::fprintf(stderr, "gpu_engine: %s\n", error.what());
    return 1;
  }
}
