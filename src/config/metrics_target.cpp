#include "config/metrics_target.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "base/trace_use.hpp"
#include "config/units.hpp"

namespace weightcast::config {
namespace {

bool is_address(const std::string& host) {
  in6_addr address{};
  return host == "localhost" || ::inet_pton(AF_INET, host.c_str(), &address) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), &address) == 1;
}

}  // namespace

std::optional<MetricsTarget> parse_metrics_target(std::string_view text) {
  if (text.find('/') != std::string_view::npos) {
    const bool is_file = text.ends_with(".prom") && !text.ends_with("/.prom");
    if (!is_file || !base::is_trace_name(text)) return std::nullopt;
    return std::string(text);
  }
  if (const auto port = parse_count(text)) {
    if (*port > 65535) return std::nullopt;
    return Place{"127.0.0.1", static_cast<std::uint16_t>(*port)};
  }
  auto place = parse_place(text);
  if (!place || !is_address(place->host)) return std::nullopt;
  if (place->host == "localhost") place->host = "127.0.0.1";
  return std::move(*place);
}

}  // namespace weightcast::config
