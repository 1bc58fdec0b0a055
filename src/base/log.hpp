// Log lines of the library: events with named values, rate-limited where they could repeat.
// docs/logging.md lists every event.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include <weightcast/log.hpp>

#include "base/clock.hpp"

namespace weightcast::base {

/// A named value of an event. Texts are views: they live until the call that they are given to ends.
struct LogField {
  LogField(std::string_view its_key, std::string_view text) : key(its_key), value(text) {}
  LogField(std::string_view its_key, const std::string& text)
      : LogField(its_key, std::string_view(text)) {}
  LogField(std::string_view its_key, const char* text)
      : LogField(its_key, std::string_view(text)) {}
  template <std::unsigned_integral T>
  LogField(std::string_view its_key, T number) : key(its_key), value(std::uint64_t{number}) {}
  template <std::signed_integral T>
  LogField(std::string_view its_key, T number) : key(its_key), value(std::int64_t{number}) {}

  std::string_view key;
  std::variant<std::string_view, std::uint64_t, std::int64_t> value;
};
using LogFields = std::initializer_list<LogField>;

/// Writes one line if `level` is on. Values are quoted and escaped as the format needs it, so those
/// from peers cannot forge keys or lines. Drops the line where there is no memory for it.
/// Thread safety: any thread.
void log(LogLevel level, std::string_view event, LogFields fields) noexcept;

/// `event=<name> key=value ...`, for whoever only carries the line; log_line() takes it.
std::string log_text(std::string_view event, LogFields fields);

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
