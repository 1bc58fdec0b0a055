#include "staging/object_name.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace weightcast::staging {
namespace {

template <class T>
bool parse_number(std::string_view text, T& out) noexcept {
  if (text.empty() || (text.size() > 1 && text.front() == '0')) return false;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, out);
  return error == std::errc{} && stop == end;
}

/// from_chars takes a minus sign for signed types only; these are all unsigned.
template <class T>
bool parse_tagged(std::string_view text, char tag, T& out) noexcept {
  return !text.empty() && text.front() == tag && parse_number(text.substr(1), out);
}

}  // namespace

bool is_name_word(std::string_view word) noexcept {
  return !word.empty() && word.size() <= 64 && std::all_of(word.begin(), word.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

std::string owner_prefix(const ObjectOwner& owner) {
  std::string name = "weightcast.";
  name += std::to_string(::geteuid());
  name += '.';
  name += owner.job;
  name += '.';
  name += owner.policy;
  name += '.';
  name += std::to_string(owner.run.started_us);
  name += '-';
  name += std::to_string(owner.run.tie);
  name += ".r";
  name += std::to_string(owner.rank);
  name += '.';
  name += std::to_string(owner.incarnation);
  return name;
}

std::string slot_name(const std::string& prefix, std::uint32_t slot) {
  return prefix + ".s" + std::to_string(slot);
}

std::string anchor_name(const std::string& prefix) { return prefix + ".anchor"; }

std::string board_name(const std::string& prefix) { return prefix + ".board"; }

std::string_view prefix_of(std::string_view name) noexcept {
  const auto dot = name.rfind('.');
  return dot == std::string_view::npos ? std::string_view{} : name.substr(0, dot);
}

std::optional<ObjectName> parse_object_name(std::string_view name) {
  std::array<std::string_view, 8> part;
  for (std::size_t i = 0; i < part.size(); ++i) {
    const auto dot = name.find('.');
    if ((dot == std::string_view::npos) != (i + 1 == part.size())) return std::nullopt;
    part[i] = name.substr(0, dot);
    if (dot != std::string_view::npos) name.remove_prefix(dot + 1);
  }
  ObjectName out;
  if (part[0] != "weightcast" || !parse_number(part[1], out.uid) || !is_name_word(part[2]) ||
      !is_name_word(part[3])) {
    return std::nullopt;
  }
  out.owner.job = part[2];
  out.owner.policy = part[3];
  const auto dash = part[4].find('-');
  if (dash == std::string_view::npos ||
      !parse_number(part[4].substr(0, dash), out.owner.run.started_us) ||
      !parse_number(part[4].substr(dash + 1), out.owner.run.tie) ||
      !parse_tagged(part[5], 'r', out.owner.rank) ||
      !parse_number(part[6], out.owner.incarnation)) {
    return std::nullopt;
  }
  out.is_board = part[7] == "board";
  if (part[7] == "anchor" || out.is_board) return out;
  std::uint32_t slot = 0;
  if (!parse_tagged(part[7], 's', slot) || slot >= kMaxSlots) return std::nullopt;
  out.slot = slot;
  return out;
}

}  // namespace weightcast::staging
