// Handles as text, for command lines.
#pragma once

#include <string>

#include "driver/cuda.hpp"

namespace weightcast::driver {

inline std::string to_text(const IpcHandle& handle) {
  std::string text;
  for (const std::byte b : handle.bytes) {
    text += "0123456789abcdef"[std::to_integer<unsigned>(b) / 16];
    text += "0123456789abcdef"[std::to_integer<unsigned>(b) % 16];
  }
  return text;
}

/// @param text 128 hexadecimal digits
inline IpcHandle from_text(const std::string& text) {
  IpcHandle handle;
  for (std::size_t i = 0; i < handle.bytes.size() && 2 * i + 2 <= text.size(); ++i) {
    handle.bytes[i] = static_cast<std::byte>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  }
  return handle;
}

}  // namespace weightcast::driver
