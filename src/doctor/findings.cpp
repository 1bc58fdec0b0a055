#include "doctor/findings.hpp"

#include <array>
#include <cstdio>

namespace weightcast::doctor {

void Findings::refused(std::string subject, const Status& status) {
  std::string found = status.message();
  std::string remedy;
  const auto at = found.find("; ");
  if (at != std::string::npos) {
    remedy = found.substr(at + 2);
    found.resize(at);
  }
  error(std::move(subject), std::move(found), std::move(remedy));
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
