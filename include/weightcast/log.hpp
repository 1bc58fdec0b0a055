// Where weightcast's log lines go, and how they look.
#pragma once

#include <functional>
#include <string_view>

#include <weightcast/export.hpp>

namespace weightcast {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

enum class LogFormat {
  kText,  ///< `event=<name> key=value key="a value with spaces" ...`
  kJson   ///< one JSON object a line: "time", "level", "event" and a member for each key
};

/// Receives one line without a newline, in the format of the moment. Called from any thread.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Replaces the sink of this process (default: standard error); an empty one restores the default.
/// Thread safety: any time, from any thread.
WEIGHTCAST_API void set_log_sink(LogSink sink);

/// Lines below `level` are not made (default: kInfo). Thread safety: any time, from any thread.
WEIGHTCAST_API void set_log_level(LogLevel level) noexcept;

/// How lines look from now on (default: kText). Thread safety: any time, from any thread.
WEIGHTCAST_API void set_log_format(LogFormat format) noexcept;

/// Hands one line, written as kText, to the sink if `level` is wanted, in the format of the moment;
/// for adapters that are built on this API. A line that is not written so comes through whole, in
/// JSON as the member "text". Thread safety: any time, from any thread.
WEIGHTCAST_API void log_line(LogLevel level, std::string_view line) noexcept;

}  // namespace weightcast
