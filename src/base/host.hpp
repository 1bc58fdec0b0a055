// Where this process is: which memory and clock it shares with others, and by which address they
// reach it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <weightcast/status.hpp>

namespace weightcast::base {

/// Equal for processes that share /dev/shm and the monotonic clock: the kernel's boot, the file
/// system of /dev/shm and the time namespace, so two containers of one machine mostly differ.
/// Where that cannot be found out it is equal to no other process's.
/// At most 128 characters of [A-Za-z0-9.-]. Thread safety: any thread. Reads three small files.
std::string host_identity();

/// The host's name, for people: printable, at most 64 characters; empty where it has none. Thread
/// safety: any thread.
std::string host_name();

struct HostPort {
  std::string host;  ///< without the brackets of an IPv6 address
  std::uint16_t port = 0;
  bool operator==(const HostPort&) const = default;
};

/// Reads "host:port": a name, an IPv4 address, or an IPv6 address in brackets; port 0 to 65535.
/// @param option names the option in messages
/// @return kInvalid that names the option, its value and what is allowed
Result<HostPort> parse_host_port(const char* option, const std::string& text);

/// As endpoints write it: with brackets around an IPv6 address.
std::string to_string(const HostPort& at);

/// Whether a bound or connected address stays within this host: 127.0.0.0/8, ::1, localhost.
bool is_loopback(std::string_view host) noexcept;

/// Whether a server bound to it listens on all addresses: 0.0.0.0, ::, *.
bool is_any_address(std::string_view host) noexcept;

/// The address of this host by which packets to `host` leave, so by which that one reaches it. No
/// packet is sent. May wait for the resolver of names, as long as that takes.
/// @return kNotFound where the name or a way there is unknown
Result<std::string> local_address_towards(const std::string& host);

/// The address to tell other hosts.
/// @param advertise the option; taken as it is where it is set
/// @param coordinator the option, "host:port"; else the address by which that one is reached
/// @param listen rank 0's option, "address:port"; else that address, or where it listens on all of
///   them, the one of the default route
/// Where all are empty nobody else takes part: 127.0.0.1.
/// @return kInvalid for an option, kNotFound as above
Result<std::string> advertised_address(const std::string& advertise, const std::string& coordinator,
                                       const std::string& listen = {});

}  // namespace weightcast::base
