#include "doctor/findings.hpp"

#include <array>
#include <cstdio>
#include <utility>

namespace weightcast::doctor {

namespace {

/// Where the remedy begins, and where what was found ends; npos where there is none.
std::pair<std::size_t, std::size_t> remedy_in(const std::string& message) {
  if (const auto at = message.find("; "); at != std::string::npos) return {at + 2, at};
  for (const char* verb : {"chmod ", "chown ", "remove ", "copy ", "make ", "move "}) {
    const auto at = message.find(std::string(": ") + verb);
    if (at != std::string::npos) return {at + 2, at};
  }
  return {std::string::npos, message.size()};
}

}  // namespace

void Findings::refused(std::string subject, const Status& status, std::string otherwise) {
  const std::string& message = status.message();
  const auto [remedy, end] = remedy_in(message);
  error(std::move(subject), message.substr(0, end),
        remedy == std::string::npos ? std::move(otherwise) : message.substr(remedy));
}

std::string about(std::uint64_t bytes) {
  constexpr std::array kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%.1f", value);
  std::string number = text.data();
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return number + " " + kUnits[unit];
}

}  // namespace weightcast::doctor
