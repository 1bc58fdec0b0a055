// Where weightcast's log lines go.
#pragma once

#include <functional>
#include <string_view>

#include <weightcast/export.hpp>

namespace weightcast {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

/// Receives one line without a newline: `event=<name> key=value ...`. Called from any thread.
using LogSink = std::function<void(LogLevel, std::string_view)>;

/// Replaces the sink of this process (default: standard error); an empty one restores the default.
/// Thread safety: any time, from any thread.
WEIGHTCAST_API void set_log_sink(LogSink sink);

/// Lines below `level` are not made (default: kInfo). Thread safety: any time, from any thread.
WEIGHTCAST_API void set_log_level(LogLevel level) noexcept;

/// Hands one line, made as LogSink describes, to the sink if `level` is wanted; for adapters that are
/// built on this API. Thread safety: any time, from any thread.
WEIGHTCAST_API void log_line(LogLevel level, std::string_view line) noexcept;

}  // namespace weightcast
