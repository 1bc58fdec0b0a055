// Log lines of the library: one line, searchable, rate-limited where they could repeat.
#pragma once

#include <atomic>
#include <string_view>

#include <weightcast/log.hpp>

#include "base/clock.hpp"

namespace weightcast::base {

/// Writes one line `event=<name> key=value ...` if `level` is on. Thread safety: any thread.
void log(LogLevel level, std::string_view line) noexcept;

/// Lets one line through in each period. Thread safety: any thread.
class RateLimit {
 public:
  explicit RateLimit(Duration period) noexcept : period_(period) {}

  bool allow(Clock::time_point now) noexcept {
    const std::int64_t at = now.time_since_epoch().count();
    std::int64_t next = next_.load(std::memory_order_relaxed);
    return at >= next && next_.compare_exchange_strong(next, at + period_.count());
  }

 private:
  Duration period_;
  std::atomic<std::int64_t> next_{0};
};

}  // namespace weightcast::base
