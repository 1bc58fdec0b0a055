#pragma once

#include <chrono>
#include <cstdint>

namespace rl_loop {

using Clock = std::chrono::steady_clock;  // CLOCK_MONOTONIC: comparable across processes of a host

/// Nanoseconds of CLOCK_MONOTONIC.
inline std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

/// Milliseconds until `deadline`, rounded up, never negative: what poll() wants.
inline std::chrono::milliseconds remaining(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return left.count() > 0 ? left : std::chrono::milliseconds(0);
}

}  // namespace rl_loop
