// How much memory this process has for itself, and how much it had at most.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>

#include "support/sanitized.hpp"

namespace weightcast::test {

inline constexpr bool kMemoryIsOwn = !kSanitized;  ///< a sanitizer has a part of all of it

/// A line "Name: <number> kB" of /proc/self/status, in bytes; 0 where there is none.
inline std::uint64_t memory_field(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":")) {
      return 1024 * std::strtoull(line.c_str() + name.size() + 1, nullptr, 10);
    }
  }
  return 0;
}

/// Watches anonymous memory (heap, stacks, images; not what is mapped of shared memory) from a
/// thread of its own, a few hundred times a second.
class OwnMemory {
 public:
  OwnMemory() : before_(memory_field("RssAnon")), peak_(before_), thread_([this] { watch(); }) {}
  ~OwnMemory() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    stopped_.notify_all();
    thread_.join();
  }
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;

  /// Greatest seen beyond what there was when this object was made.
  std::uint64_t grown() {
    look();
    return peak_ - before_;
  }

 private:
  void look() {
    const std::uint64_t now = memory_field("RssAnon");
    std::uint64_t peak = peak_;
    while (now > peak && !peak_.compare_exchange_weak(peak, now)) {
    }
  }
  void watch() {
    std::unique_lock lock(mutex_);
    while (!stopped_.wait_for(lock, std::chrono::milliseconds(3), [this] { return stop_; })) look();
  }

  const std::uint64_t before_;
  std::atomic<std::uint64_t> peak_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace weightcast::test
