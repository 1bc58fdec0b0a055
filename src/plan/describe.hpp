// Names and numbers from elsewhere, for a log line.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace weightcast::plan {

/// `name` in quotes: printable, and not longer than a line.
inline std::string quoted(std::string_view name) {
  constexpr std::size_t kShown = 120;
  std::string text = "'";
  for (char c : name.substr(0, kShown)) text += (c >= ' ' && c <= '~') ? c : '?';
  text += name.size() > kShown ? "...'" : "'";
  return text;
}

/// "[4, 6]"
inline std::string listed(std::span<const std::int64_t> numbers) {
  std::string text = "[";
  for (const std::int64_t number : numbers) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(number);
  }
  return text + "]";
}

}  // namespace weightcast::plan
