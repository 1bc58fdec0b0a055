// How an event becomes a line: text with quotes where they are needed, or a JSON object.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/log.hpp"

namespace weightcast::base {

/// A JSON object without a newline. `time` is written in UTC, to the millisecond. Bytes that are no
/// UTF-8 become U+FFFD.
std::string log_json(std::chrono::system_clock::time_point time, LogLevel level,
                     std::string_view event, LogFields fields);

/// The same of a line as log_text() makes it: unquoted whole numbers become numbers. Another line
/// becomes the member "text" of the event "line".
std::string log_json_of_text(std::chrono::system_clock::time_point time, LogLevel level,
                             std::string_view line);

/// "debug", "info", "warn", "error" or "off".
std::string_view log_level_name(LogLevel level) noexcept;

}  // namespace weightcast::base
