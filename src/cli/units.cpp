#include "cli/units.hpp"

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <cstdint>
#include <utility>

namespace weightcast::cli {

CLI::Validator size_option() {
  return CLI::Validator(
      [](std::string& text) -> std::string {
        static constexpr std::array<std::pair<std::string_view, std::uint64_t>, 9> kUnits = {{
            {"", 1},
            {"KB", 1000},
            {"MB", 1'000'000},
            {"GB", 1'000'000'000},
            {"TB", 1'000'000'000'000},
            {"KiB", std::uint64_t{1} << 10},
            {"MiB", std::uint64_t{1} << 20},
            {"GiB", std::uint64_t{1} << 30},
            {"TiB", std::uint64_t{1} << 40},
        }};
        constexpr std::uint64_t kMost = std::uint64_t{1} << 60;
        std::uint64_t number = 0;
        const char* end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, number);
        const std::string_view unit(stop, static_cast<std::size_t>(end - stop));
        for (const auto& [name, bytes] : kUnits) {
          if (error != std::errc{} || unit != name || number > kMost / bytes) continue;
          text = std::to_string(number * bytes);
          return "";
        }
        return "expected a size as 512MiB, 1GB or 4096, got '" + text + "'";
      },
      "SIZE");
}

}  // namespace weightcast::cli
