#include "config/units.hpp"

#include <array>
#include <charconv>
#include <limits>
#include <span>
#include <utility>

namespace weightcast::config {
namespace {

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};

constexpr std::uint64_t kKi = 1024;
constexpr std::uint64_t kK = 1000;
// From the greatest to the smallest; sizes are shown in the binary ones alone.
constexpr std::array<Unit, 5> kBinarySizes = {{{"TiB", kKi * kKi * kKi * kKi},
                                               {"GiB", kKi * kKi * kKi},
                                               {"MiB", kKi * kKi},
                                               {"KiB", kKi},
                                               {"", 1}}};
constexpr std::array<Unit, 5> kDecimalSizes = {
    {{"TB", kK * kK * kK * kK}, {"GB", kK * kK * kK}, {"MB", kK * kK}, {"KB", kK}, {"B", 1}}};
constexpr std::array<Unit, 6> kDurations = {{{"h", 3600 * kK * kK * kK},
                                             {"m", 60 * kK * kK * kK},
                                             {"s", kK * kK * kK},
                                             {"ms", kK * kK},
                                             {"us", kK},
                                             {"ns", 1}}};

/// The digits that the text begins with, and what follows them.
std::optional<std::pair<std::uint64_t, std::string_view>> split(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return std::nullopt;
  return std::pair(number, text.substr(static_cast<std::size_t>(end - text.data())));
}

std::optional<std::uint64_t> times_unit(std::uint64_t number, std::string_view unit,
                                        std::span<const Unit> units) {
  for (const Unit& known : units) {
    if (known.name != unit) continue;
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(number, known.factor, &product)) return std::nullopt;
    return product;
  }
  return std::nullopt;
}

std::string in_greatest_unit(std::uint64_t number, std::span<const Unit> units) {
  for (const Unit& unit : units) {
    if (number != 0 && number % unit.factor == 0) {
      return std::to_string(number / unit.factor) + std::string(unit.name);
    }
  }
  return "0";
}

}  // namespace

std::optional<std::uint64_t> parse_count(std::string_view text) {
  const auto parts = split(text);
  if (!parts || !parts->second.empty()) return std::nullopt;
  return parts->first;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  const auto parts = split(text);
  if (!parts) return std::nullopt;
  if (auto bytes = times_unit(parts->first, parts->second, kBinarySizes)) return bytes;
  return times_unit(parts->first, parts->second, kDecimalSizes);
}

std::string show_size(std::uint64_t bytes) { return in_greatest_unit(bytes, kBinarySizes); }

std::optional<Duration> parse_duration(std::string_view text) {
  const auto parts = split(text);
  if (!parts) return std::nullopt;
  if (parts->first == 0 && parts->second.empty()) return Duration::zero();
  const auto count = times_unit(parts->first, parts->second, kDurations);
  if (!count || *count > static_cast<std::uint64_t>(Duration::max().count())) return std::nullopt;
  return Duration(static_cast<Duration::rep>(*count));
}

std::string show_duration(Duration duration) {
  const auto count = static_cast<std::uint64_t>(duration.count());
  if (duration < Duration::zero()) return "-" + in_greatest_unit(0 - count, kDurations);
  return in_greatest_unit(count, kDurations);
}

std::optional<bool> parse_truth(std::string_view text) {
  if (text == "true" || text == "1") return true;
  if (text == "false" || text == "0") return false;
  return std::nullopt;
}

}  // namespace weightcast::config
