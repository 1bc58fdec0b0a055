// What the machine allows between a trainer's and an engine's process on one device, bare: bytes
// that leave the device for registered shared memory in one process while another brings them back
// behind it; each of the two alone; and copies within the device, in one process and over CUDA IPC.
// The limits that scripts/lib/bench_gpu.py gives beside its times.
//
//   gpu_overlap [--bytes N] [--rounds N] [--device N]
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <span>

#include "gpu_support.hpp"

namespace {

using namespace bench;

struct Options {
  std::uint64_t bytes = 16'381'470'720;  // Qwen3-8B in BF16
  int rounds = 5;
  int device = 0;
  int threads = 8;  // that touch the shared memory
  int reader = -1;  // the descriptor of the shared memory, in the process that reads
};

/// What the two processes tell each other. Zero at first.
struct Control {
  enum Task : int { kNone, kBehind, kAlone, kIpc, kLeave };
  std::atomic<int> task;  ///< of the reader; set before `turn`
  std::atomic<int> turn;  ///< counts tasks given
  std::atomic<int> over;  ///< counts tasks done
  std::atomic<std::uint64_t> written;
  std::atomic<std::uint64_t> bucket;
  std::atomic<std::int64_t> end_ns;  ///< of the last task
  std::atomic<bool> broken;          ///< one of the two has failed
  weightcast::driver::IpcHandle handle;
};

constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::int64_t kPatienceNs = 120'000'000'000;

void wait_until(Control& control, const std::function<bool()>& holds) {
  const std::int64_t deadline = now_ns() + kPatienceNs;
  while (!holds()) {
    if (control.broken) throw std::runtime_error("the other process has failed");
    if (now_ns() > deadline) throw std::runtime_error("the other process did nothing for 120 s");
    std::this_thread::yield();
  }
}

/// One process's end: device memory, the shared memory registered, a stream.
class End {
 public:
  End(const Options& options, Control& control, void* shared)
      : options_(options),
        control_(control),
        shared_(static_cast<std::byte*>(shared)),
        device_(Device::open(options.device)),
        memory_(device_, options.bytes),
        stream_(device_) {
    const std::int64_t begin = now_ns();
    must(device_.cuda->register_host(shared_, options.bytes));
    register_s_ = static_cast<double>(now_ns() - begin) / 1e9;
  }
  ~End() { device_.cuda->unregister_host(shared_, options_.bytes); }

  /// Copies bucket by bucket, each as soon as `may` holds for its end; says `then` when one is
  /// done.
  void copy(std::byte* to, const std::byte* from, std::uint64_t bucket,
            const std::function<bool(std::uint64_t)>& may,
            const std::function<void(std::uint64_t)>& then) {
    std::vector<std::pair<Event, std::uint64_t>> flying;
    std::size_t landed = 0;
    for (std::uint64_t at = 0; at < options_.bytes || landed < flying.size();) {
      const std::uint64_t end = std::min(at + bucket, options_.bytes);
      if (at < options_.bytes && may(end)) {
        const CopyItem item{to + at, from + at, end - at};
        stream_.copy({&item, 1});
        flying.emplace_back(Event(device_, false), end);
        flying.back().first.record(stream_.native());
        at = end;
      }
      while (landed < flying.size() && flying[landed].first.done()) then(flying[landed++].second);
      if (control_.broken) throw std::runtime_error("the other process has failed");
    }
  }

 protected:
  const Options& options_;
  Control& control_;
  std::byte* shared_;
  Device device_;
  Buffer memory_;
  Stream stream_;
  double register_s_ = 0;
};

class Reader : public End {
 public:
  using End::End;

  void run() {
    for (int turn = 1;; ++turn) {
      control_.over = turn - 1;
      wait_until(control_, [&] { return control_.turn >= turn; });
      const int task = control_.task;
      if (task == Control::kLeave) return;
      if (task == Control::kIpc) {
        ipc();
      } else {
        copy(
            memory_.data(), shared_, control_.bucket,
            [&](std::uint64_t end) { return task == Control::kAlone || control_.written >= end; },
            [](std::uint64_t) {});
      }
      control_.end_ns = now_ns();
    }
  }

 private:
  void ipc() {
    if (opened_ == nullptr) {
      opened_ = must(device_.cuda->open_memory(device_.index, control_.handle));
    }
    const CopyItem item{memory_.data(), opened_, options_.bytes};
    stream_.copy({&item, 1});
    stream_.await();
  }

  void* opened_ = nullptr;  // until the process ends, which is when its tasks do
};

class Writer : public End {
 public:
  using End::End;

  void run() {
    wait_until(control_, [&] { return control_.over == 0; });
    json all = {{"kind", "limits"},
                {"bytes", options_.bytes},
                {"register_s", register_s_},
                {"device", must(device_.cuda->properties(device_.index)).name}};
    for (int round = 0; round < options_.rounds; ++round) {
      all["d2h_s"].push_back(timed([&] { out(64 * kMiB); }));
      all["h2d_s"].push_back(timed([&] { give(Control::kAlone, 64 * kMiB); }));
      for (const std::uint64_t bucket : {16 * kMiB, 64 * kMiB, 256 * kMiB, 512 * kMiB}) {
        const auto both = [&] {
          control_.written = 0;
          give(Control::kBehind, bucket, false);
          out(bucket);
          wait_until(control_, [&] { return control_.over == turns_; });
        };
        all["overlap_s"][std::to_string(bucket / kMiB)].push_back(timed(both));
      }
    }
    control_.handle = must(device_.cuda->export_memory(device_.index, memory_.data()));
    give(Control::kIpc, 0);  // opens it
    for (int round = 0; round < options_.rounds; ++round) {
      all["ipc_s"].push_back(timed([&] { give(Control::kIpc, 0); }));
    }
    const Buffer second(device_, options_.bytes);
    const CopyItem item{second.data(), memory_.data(), options_.bytes};
    for (int round = 0; round < options_.rounds; ++round) {
      all["d2d_s"].push_back(timed([&] {
        stream_.copy({&item, 1});
        stream_.await();
      }));
    }
    control_.task = Control::kLeave;
    ++control_.turn;
    emit(all);
  }

 private:
  static double timed(const std::function<void()>& work) {
    const std::int64_t begin = now_ns();
    work();
    return static_cast<double>(now_ns() - begin) / 1e9;
  }
  void out(std::uint64_t bucket) {
    copy(
        shared_, memory_.data(), bucket, [](std::uint64_t) { return true; },
        [&](std::uint64_t end) { control_.written = end; });
  }
  void give(Control::Task task, std::uint64_t bucket, bool to_its_end = true) {
    control_.bucket = bucket;
    control_.task = task;
    control_.turn = ++turns_;
    if (to_its_end) wait_until(control_, [&] { return control_.over == turns_; });
  }

  int turns_ = 0;
};

/// Touched by several threads: a page at a time is what registering fresh memory takes long for.
void touch(void* memory, const Options& options) {
  std::vector<std::thread> threads;
  const auto count = static_cast<std::uint64_t>(options.threads);
  for (std::uint64_t i = 0; i < count; ++i) {
    threads.emplace_back([=, bytes = options.bytes] {
      auto* at = static_cast<volatile char*>(memory);
      for (std::uint64_t page = bytes / count * i; page < bytes / count * (i + 1); page += 4096) {
        at[page] = 1;
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

/// Shared memory of both processes, by a descriptor that the second one inherits.
class Shared {
 public:
  Shared(int descriptor, std::uint64_t bytes) : descriptor_(descriptor), bytes_(kHead + bytes) {
    memory_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    if (memory_ == MAP_FAILED) throw std::runtime_error("no shared memory of that size");
  }
  ~Shared() {
    ::munmap(memory_, bytes_);
    ::close(descriptor_);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;

  static int create(std::uint64_t bytes) {
    const int descriptor = ::memfd_create("gpu_overlap", 0);
    if (descriptor < 0 || ::ftruncate(descriptor, static_cast<off_t>(kHead + bytes)) != 0) {
      throw std::runtime_error("no shared memory of that size");
    }
    return descriptor;
  }
  int descriptor() const noexcept { return descriptor_; }
  Control& control() const noexcept { return *static_cast<Control*>(memory_); }
  void* bytes() const noexcept { return static_cast<std::byte*>(memory_) + kHead; }

 private:
  static constexpr std::uint64_t kHead = 4096;
  static_assert(sizeof(Control) <= kHead);
  const int descriptor_;
  const std::uint64_t bytes_;
  void* memory_ = nullptr;
};

/// A second process of this program; a forked one could not use CUDA.
pid_t start_reader(const Options& options, int descriptor) {
  const std::vector<std::string> words = {"gpu_overlap",
                                          "--bytes",
                                          std::to_string(options.bytes),
                                          "--device",
                                          std::to_string(options.device),
                                          "--reader",
                                          std::to_string(descriptor)};
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  if (::posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, arguments.data(), environ) != 0) {
    throw std::runtime_error("no second process could be started");
  }
  return child;
}

int read(const Options& options) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const Shared shared(options.reader, options.bytes);
  try {
    Reader(options, shared.control(), shared.bytes()).run();
  } catch (...) {
    shared.control().broken = true;
    throw;
  }
  return 0;
}

int write(const Options& options) {
  try {
    Device::open(options.device);  // before so much memory is taken
  } catch (const std::exception& error) {
    emit({{"kind", "failed"}, {"why", error.what()}});
    throw;
  }
  const Shared shared(Shared::create(options.bytes), options.bytes);
  shared.control().over = -1;
  touch(shared.bytes(), options);
  const pid_t reader = start_reader(options, shared.descriptor());
  int status = 0;
  try {
    Writer(options, shared.control(), shared.bytes()).run();
  } catch (const std::exception& error) {
    shared.control().broken = true;
    std::fprintf(stderr, "gpu_overlap: %s\n", error.what());
    emit({{"kind", "failed"}, {"why", error.what()}});
    status = 1;
  }
  int ended = 0;
  ::waitpid(reader, &ended, 0);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Bare copies between two processes on one device");
  app.add_option("--bytes", options.bytes);
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--device", options.device);
  app.add_option("--reader", options.reader, "the second process: of this shared memory");
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 256));
  CLI11_PARSE(app, argc, argv);
  options.bytes = std::max<std::uint64_t>(options.bytes / 4096, 1) * 4096;
  try {
    return options.reader >= 0 ? read(options) : write(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_overlap: %s\n", error.what());
    return 1;
  }
}
