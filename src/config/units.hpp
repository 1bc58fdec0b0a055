// Numbers, sizes, durations and truth as they are written in a configuration.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <weightcast/types.hpp>

namespace weightcast::config {

/// Digits alone. None for anything else, and where it does not fit.
std::optional<std::uint64_t> parse_count(std::string_view text);

/// Bytes: "4096", "512MiB", "1GB"; units B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB.
std::optional<std::uint64_t> parse_size(std::string_view text);
/// In the greatest unit, binary ones first, that shows every byte.
std::string show_size(std::uint64_t bytes);

/// "250ms", "2s", "1m"; units ns, us, ms, s, m, h. Nothing but 0 stands without a unit.
std::optional<Duration> parse_duration(std::string_view text);
/// In the greatest unit that shows every nanosecond.
std::string show_duration(Duration duration);

/// true, false, 1 or 0.
std::optional<bool> parse_truth(std::string_view text);

}  // namespace weightcast::config
