// Named places at which tests stop or kill a process, or make an operation fail. In a program that
// sets no handler each costs one relaxed load.
#pragma once

#include <atomic>

namespace weightcast::base {

/// What a fault harness wants to happen at a failpoint. Called on whatever thread passes it.
using FailpointHandler = void (*)(const char* name, unsigned long long version);

inline std::atomic<FailpointHandler>& failpoint_handler() noexcept {
  static std::atomic<FailpointHandler> handler{nullptr};
  return handler;
}

/// Passes the failpoint `name` on the way of `version` (its number; 0 where it is not known).
inline void failpoint(const char* name, unsigned long long version) noexcept {
  if (const FailpointHandler handler = failpoint_handler().load(std::memory_order_relaxed)) {
    handler(name, version);
  }
}

}  // namespace weightcast::base
