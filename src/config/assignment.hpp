// What one source says of one key, before it is known to be allowed.
#pragma once

#include <string>

#include <weightcast/config.hpp>

namespace weightcast::config {

/// Whom it is meant for.
enum class Scope { kBoth, kTrainer, kWorker };

struct Assignment {
  std::string key;
  std::string value;
  ConfigSource source = ConfigSource::kFile;
  std::string origin;  ///< "flag --weightcast.slots", "environment variable WEIGHTCAST_SLOTS",
                       ///< "job.toml:3"
  Scope scope = Scope::kBoth;
  std::string unit{};  ///< to be read behind the value
};

/// The value as messages show it: in quotes, and not endless.
inline std::string shown(const std::string& value) {
  constexpr std::size_t kLongest = 100;
  if (value.size() <= kLongest) return "\"" + value + "\"";
  return "\"" + value.substr(0, kLongest) + "...\" (" + std::to_string(value.size()) +
         " characters)";
}

}  // namespace weightcast::config
