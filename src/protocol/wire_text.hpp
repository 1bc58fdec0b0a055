// Texts that come from or go to a peer and end up in a line of a log.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "protocol/wire.hpp"

namespace weightcast::protocol {

inline bool is_control(char c) noexcept {
  return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7f;
}

/// Not longer than a peer believes, cut between UTF-8 characters, without control characters.
inline std::string clean_text(std::string_view text, std::size_t most = kMaxTextBytes) {
  if (text.size() > most) {
    std::size_t end = most;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
    text = text.substr(0, end);
  }
  std::string out(text);
  std::replace_if(out.begin(), out.end(), is_control, ' ');
  return out;
}

}  // namespace weightcast::protocol
