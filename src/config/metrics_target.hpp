// Where metrics go: the key `metrics`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "config/place.hpp"

namespace weightcast::config {

inline constexpr const char* kMetricsRule =
    "a port (0: a free one) of the loopback address, as 9464; address:port, as 0.0.0.0:9464 or "
    "[::1]:9464; or a path with a / in it that ends in .prom, in which %p is the pid, %n the "
    "member's name, %% a percent sign";

/// A place to listen at, or the pattern of a file's path.
using MetricsTarget = std::variant<Place, std::string>;

/// None where it is neither. Hosts are addresses or "localhost": a name could take long to look up.
std::optional<MetricsTarget> parse_metrics_target(std::string_view text);

}  // namespace weightcast::config
