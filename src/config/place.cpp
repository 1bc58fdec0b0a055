#include "config/place.hpp"

#include <algorithm>

#include "config/units.hpp"

namespace weightcast::config {
namespace {

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/// Of letters, digits and the further characters.
bool is_made_of(std::string_view text, std::string_view further) {
  return !text.empty() && text.size() <= 255 && std::all_of(text.begin(), text.end(), [&](char c) {
    return is_letter_or_digit(c) || further.find(c) != std::string_view::npos;
  });
}

bool is_ipv6(std::string_view text) {
  return std::count(text.begin(), text.end(), ':') >= 2 && is_made_of(text, ":.%");
}

}  // namespace

std::optional<Place> parse_place(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const auto port = parse_count(text.substr(colon + 1));
  if (!port || *port > 65535) return std::nullopt;
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    if (!is_ipv6(host)) return std::nullopt;
  } else if (!is_made_of(host, ".-_")) {
    return std::nullopt;
  }
  return Place{std::string(host), static_cast<std::uint16_t>(*port)};
}

std::string show_place(std::string_view host, std::uint64_t port) {
  const std::string name = is_ipv6(host) ? "[" + std::string(host) + "]" : std::string(host);
  return name + ":" + std::to_string(port);
}

bool is_host(std::string_view text) { return is_made_of(text, ".-_") || is_ipv6(text); }

bool is_loopback(std::string_view host) {
  if (host == "localhost" || host == "::1") return true;
  return host.starts_with("127.") && is_made_of(host, ".") &&
         std::none_of(host.begin(), host.end(),
                      [](char c) { return c != '.' && (c < '0' || c > '9'); });
}

}  // namespace weightcast::config
