#include "base/config.hpp"

#include <charconv>
#include <cstdlib>
#include <utility>

#include <weightcast/log.hpp>

namespace weightcast::base {

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return std::string(value);
}

Result<std::optional<std::uint64_t>> environment_number(const char* name, std::uint64_t least,
                                                        std::uint64_t most) {
  const std::optional<std::string> text = environment(name);
  if (!text) return std::optional<std::uint64_t>();
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
  if (error != std::errc() || end != text->data() + text->size() || number < least ||
      number > most) {
    return Status(Code::kInvalid, "environment variable " + std::string(name) + "=\"" + *text +
                                      "\": expected a whole number from " + std::to_string(least) +
                                      " to " + std::to_string(most));
  }
  return std::optional<std::uint64_t>(number);
}

Status check_name(const char* what, const std::string& name) {
  bool good = !name.empty() && name.size() <= 64;
  for (char c : name) {
    good = good && ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                    c == '_' || c == '-');
  }
  if (good) return Status::ok();
  return Status(Code::kInvalid, std::string(what) + " \"" + name +
                                    "\": expected 1 to 64 characters of A-Z, a-z, 0-9, _ and -");
}

Status apply_log_level() {
  const std::optional<std::string> text = environment("WEIGHTCAST_LOG");
  if (!text) return Status::ok();
  constexpr std::pair<const char*, LogLevel> kLevels[] = {{"debug", LogLevel::kDebug},
                                                          {"info", LogLevel::kInfo},
                                                          {"warn", LogLevel::kWarn},
                                                          {"error", LogLevel::kError},
                                                          {"off", LogLevel::kOff}};
  for (const auto& [name, level] : kLevels) {
    if (*text != name) continue;
    set_log_level(level);
    return Status::ok();
  }
  return Status(Code::kInvalid, "environment variable WEIGHTCAST_LOG=\"" + *text +
                                    "\": expected debug, info, warn, error or off");
}

}  // namespace weightcast::base
