// A name from elsewhere, for a log line.
#pragma once

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

}  // namespace weightcast::plan
