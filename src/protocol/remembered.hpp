// Names of members that are gone, with a version each: what verdicts are told of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace weightcast::protocol {

inline constexpr std::size_t kMostRemembered = 1024;

/// Beyond kMostRemembered the oldest version's is forgotten.
inline void remember_version(std::map<std::string, std::uint64_t>& names, const std::string& name,
                             std::uint64_t number) {
  names[name] = number;
  if (names.size() <= kMostRemembered) return;
  names.erase(std::min_element(names.begin(), names.end(), [](const auto& x, const auto& y) {
    return x.second < y.second;
  }));
}

}  // namespace weightcast::protocol
