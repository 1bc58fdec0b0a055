#include "base/host.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <random>

#include "base/unique_fd.hpp"

namespace weightcast::base {
namespace {

/// Of TEST-NET-1: the way there is the default route.
constexpr const char* kSomewhere = "192.0.2.1";

bool is_word(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

std::string words_of(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (is_word(c)) out += c;
  }
  return out.substr(0, 40);
}

std::string read_words(const char* path) {
  const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
  std::array<char, 128> text{};
  const ssize_t size = file ? ::read(file.get(), text.data(), text.size()) : -1;
  return size > 0 ? words_of({text.data(), static_cast<std::size_t>(size)}) : "";
}

std::string read_link_words(const char* path) {
  std::array<char, 128> text{};
  const ssize_t size = ::readlink(path, text.data(), text.size());
  return size > 0 ? words_of({text.data(), static_cast<std::size_t>(size)}) : "";
}

std::string unique_identity() {
  std::random_device random;
  std::string identity = "alone";
  for (int i = 0; i < 4; ++i) identity += "-" + std::to_string(random());
  return identity;
}

struct FreeAddresses {
  void operator()(addrinfo* list) const noexcept { ::freeaddrinfo(list); }
};

Status refuse(const char* option, const std::string& text) {
  return {Code::kInvalid, "option " + std::string(option) + " = \"" + text +
                              "\": expected host:port, as in \"10.0.0.1:29577\", with a port of 0 "
                              "to 65535 and an IPv6 address in brackets"};
}

}  // namespace

std::string host_name() {
  std::array<char, 65> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return {};
  std::string out(name.data());
  std::erase_if(out, [](char c) { return c <= ' ' || c > '~'; });
  return out;
}

std::string host_identity() {
  const std::string boot = read_words("/proc/sys/kernel/random/boot_id");
  struct stat shm{};
  if (boot.empty() || ::stat("/dev/shm", &shm) != 0) return unique_identity();
  // Kernels before 5.6 have no time namespaces: then all processes share one.
  const std::string time = read_link_words("/proc/self/ns/time");
  return boot + "." + std::to_string(shm.st_dev) + "." + std::to_string(shm.st_ino) + "." +
         (time.empty() ? "time" : time);
}

Result<HostPort> parse_host_port(const char* option, const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return refuse(option, text);
  HostPort at;
  at.host = text.substr(0, colon);
  const bool bracketed = at.host.size() > 2 && at.host.front() == '[' && at.host.back() == ']';
  if (bracketed) at.host = at.host.substr(1, at.host.size() - 2);
  const bool good = std::all_of(at.host.begin(), at.host.end(), [&](char c) {
    return is_word(c) || c == '.' || c == '_' || (bracketed && (c == ':' || c == '%'));
  });
  if ((!good && at.host != "*") || at.host.size() > 253) return refuse(option, text);
  const std::string_view port = std::string_view(text).substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), at.port);
  if (error != std::errc{} || port.empty() || end != port.data() + port.size()) {
    return refuse(option, text);
  }
  return at;
}

std::string to_string(const HostPort& at) {
  const bool bracketed = at.host.find(':') != std::string::npos;
  return (bracketed ? "[" + at.host + "]" : at.host) + ":" + std::to_string(at.port);
}

bool is_loopback(std::string_view host) noexcept {
  if (host == "localhost" || host == "::1") return true;
  in_addr address{};
  const std::string text(host.substr(0, 64));
  return ::inet_pton(AF_INET, text.c_str(), &address) == 1 && ntohl(address.s_addr) >> 24 == 127;
}

bool is_any_address(std::string_view host) noexcept {
  return host == "*" || host == "0.0.0.0" || host == "::";
}

Result<std::string> local_address_towards(const std::string& host) {
  const auto unknown = [&](const std::string& why) {
    return Status(Code::kNotFound, "no address by which '" + host + "' reaches this host: " + why +
                                       "; say it yourself (option `advertise`)");
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* list = nullptr;
  // Any port: a connected datagram socket only chooses the way.
  if (const int error = ::getaddrinfo(host.c_str(), "9", &hints, &list); error != 0) {
    return unknown(::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, FreeAddresses> addresses(list);
  for (const addrinfo* it = list; it != nullptr; it = it->ai_next) {
    const UniqueFd socket(::socket(it->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    std::array<char, NI_MAXHOST> text{};
    if (socket && ::connect(socket.get(), it->ai_addr, it->ai_addrlen) == 0 &&
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
        ::getnameinfo(reinterpret_cast<const sockaddr*>(&own), size, text.data(), text.size(),
                      nullptr, 0, NI_NUMERICHOST) == 0) {
      return std::string(text.data());
    }
  }
  return unknown("no route leads there");
}

Result<std::string> advertised_address(const std::string& advertise, const std::string& coordinator,
                                       const std::string& listen) {
  if (!advertise.empty()) {
    // Read as an endpoint is, so that it can become one.
    const bool bare = advertise.find(':') != std::string::npos && advertise.front() != '[';
    const auto at = parse_host_port("advertise", (bare ? "[" + advertise + "]" : advertise) + ":0");
    if (!at || is_any_address(at->host)) {
      return Status(Code::kInvalid, "option advertise = \"" + advertise +
                                        "\": expected an address or name by which other hosts "
                                        "reach this one, without a port");
    }
    return at->host;
  }
  if (!coordinator.empty()) {
    const auto at = parse_host_port("coordinator", coordinator);
    if (!at) return at.status();
    return local_address_towards(at->host);
  }
  if (listen.empty()) return std::string("127.0.0.1");
  const auto at = parse_host_port("listen", listen);
  if (!at) return at.status();
  return is_any_address(at->host) ? local_address_towards(kSomewhere) : at->host;
}

}  // namespace weightcast::base
