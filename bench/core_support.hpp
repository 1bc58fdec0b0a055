// What the benchmarks' processes without torch have in common: commands in, JSON lines out, and how
// much memory the process has.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include <weightcast/types.hpp>

namespace bench {

using nlohmann::json;

/// One JSON object a line on standard output. Thread safety: any thread.
inline void emit(const json& object) {
  static std::mutex mutex;
  const std::string line = object.dump() + "\n";
  const std::lock_guard lock(mutex);
  [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, line.data(), line.size());
}

/// Monotonic, the same for all processes of a host.
inline std::int64_t now_ns() {
  return std::chrono::nanoseconds(weightcast::Clock::now().time_since_epoch()).count();
}

/// Lines of standard input.
class Commands {
 public:
  /// The next one, waiting for at most `patience`; "leave" where the input has ended.
  std::optional<std::string> next(std::chrono::milliseconds patience) {
    for (;;) {
      if (const auto end = buffer_.find('\n'); end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      pollfd in{STDIN_FILENO, POLLIN, 0};
      if (::poll(&in, 1, static_cast<int>(patience.count())) <= 0) return std::nullopt;
      char bytes[256];
      const auto got = ::read(STDIN_FILENO, bytes, sizeof bytes);
      if (got <= 0) return "leave";
      buffer_.append(bytes, static_cast<std::size_t>(got));
    }
  }

 private:
  std::string buffer_;
};

/// The lines "Name: <number> kB" of a file of /proc/self, in bytes.
inline std::map<std::string, std::uint64_t> sizes_in(const char* path) {
  std::map<std::string, std::uint64_t> sizes;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos || !line.ends_with(" kB")) continue;
    sizes[line.substr(0, colon)] = 1024 * std::strtoull(line.c_str() + colon + 1, nullptr, 10);
  }
  return sizes;
}

/// Memory of this process, now and (anonymous: sampled on a thread of its own; all: by the kernel)
/// at its peak. Anonymous memory is what the process has for itself: weights, images, buckets,
/// heap. Slots are shared memory, which a host has once; a process that maps one is given its part
/// of it (Pss_Shmem), all of it where no other process does.
class Memory {
 public:
  Memory() : peak_anonymous_(anonymous()), sampler_([this] { sample(); }) {}
  ~Memory() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(wake_, &one, sizeof one);
    sampler_.join();
    ::close(wake_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  json report() {
    look();
    const auto now = sizes_in("/proc/self/status");
    const auto rollup = sizes_in("/proc/self/smaps_rollup");
    const auto of = [](const auto& sizes, const char* name) {
      const auto it = sizes.find(name);
      return it == sizes.end() ? std::uint64_t{0} : it->second;
    };
    return {{"anonymous", of(now, "RssAnon")},
            {"peak_anonymous", peak_anonymous_.load()},
            {"slots", of(rollup, "Pss_Shmem")},
            {"rss", of(rollup, "Rss")},
            {"private", of(rollup, "Private_Clean") + of(rollup, "Private_Dirty")},
            {"peak_rss", of(now, "VmHWM")}};
  }

 private:
  static std::uint64_t anonymous() { return sizes_in("/proc/self/status")["RssAnon"]; }
  void look() {
    const std::uint64_t seen = anonymous();
    std::uint64_t peak = peak_anonymous_;
    while (seen > peak && !peak_anonymous_.compare_exchange_weak(peak, seen)) {
    }
  }
  void sample() {
    pollfd wake{wake_, POLLIN, 0};
    while (::poll(&wake, 1, 20) == 0) look();
  }

  const int wake_ = ::eventfd(0, EFD_CLOEXEC);
  std::atomic<std::uint64_t> peak_anonymous_;
  std::thread sampler_;
};

}  // namespace bench
