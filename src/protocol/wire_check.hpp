// Checks of what a peer says, for the files that decode it. check_limits() has counted the lists.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "protocol/wire.hpp"
#include "protocol/wire_text.hpp"

namespace weightcast::protocol {

inline constexpr const char* kSuspect =
    "; the sender is damaged or runs another weightcast: run the same version on both sides";

inline Status invalid(std::string what) { return {Code::kInvalid, std::move(what) + kSuspect}; }

inline bool is_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= kMaxMemberNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == ':' || c == '@' || c == '-';
         });
}

inline Status check_name(const char* what, std::string_view name) {
  if (is_name(name)) return Status::ok();
  return invalid(std::string("expected a ") + what + " of 1 to " +
                 std::to_string(kMaxMemberNameBytes) + " characters of [A-Za-z0-9._:@-], got " +
                 std::to_string(name.size()) + " bytes that are none");
}

inline Status check_names(const char* what, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (Status s = check_name(what, name); !s) return s;
  }
  return Status::ok();
}

inline Status check_text(const char* what, std::string& text, std::size_t most = kMaxTextBytes) {
  if (text.size() > most) {
    return invalid(std::string("expected a ") + what + " of at most " + std::to_string(most) + " bytes, got " + std::to_string(text.size()));
  }
  text = clean_text(text);
  return Status::ok();
}

/// An endpoint or the identity of a host: printable and short; may be empty.
inline Status check_address(const char* what, std::string_view address) {
  const bool printable = std::all_of(address.begin(), address.end(),
                                     [](char c) { return c > ' ' && c <= '~'; });
  if (printable && address.size() <= kMaxAddressBytes) return Status::ok();
  return invalid(std::string("expected ") + what + " of at most " +
                 std::to_string(kMaxAddressBytes) + " printable characters, got " +
                 std::to_string(address.size()) + " bytes that are none");
}

/// The enum of ours that a number of the wire stands for; both count the same.
template <class E>
Status take_enum(const char* what, int value, E first, E last, E& out) {
  if (value < static_cast<int>(first) || value > static_cast<int>(last)) {
    return invalid(std::string("expected a known ") + what + ", got " + std::to_string(value));
  }
  out = static_cast<E>(value);
  return Status::ok();
}

}  // namespace weightcast::protocol
