// "host:port", as members of other hosts are told where to go.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weightcast::config {

struct Place {
  std::string host;  ///< without the brackets of an IPv6 address
  std::uint16_t port = 0;
};

/// "name:29577", "10.0.0.1:29577", "[fd00::1]:29577". None where it is something else.
std::optional<Place> parse_place(std::string_view text);
/// With brackets where the host is an IPv6 address.
std::string show_place(std::string_view host, std::uint64_t port);

/// A host's name or address, without a port.
bool is_host(std::string_view text);
/// Whether only this host reaches it.
bool is_loopback(std::string_view host);

}  // namespace weightcast::config
