#include "stream/probe.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <vector>

#include "base/failpoint.hpp"
#include "base/host.hpp"
#include "base/unique_fd.hpp"
#include "keys/zap.hpp"
#include "protocol/wire.hpp"

namespace weightcast::stream {
namespace {

constexpr std::string_view kTcp = "tcp://";
/// No policy's name has a dot.
constexpr const char* kNoPolicy = "weightcast.doctor";
constexpr const char* kMonitor = "inproc://weightcast.probe";

int milliseconds_until(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 60'000));
}

using Addresses = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

Result<Addresses> resolve(const base::HostPort& at) {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(at.port);
  if (const int e = ::getaddrinfo(at.host.c_str(), port.c_str(), &wanted, &found); e != 0) {
    return Status(Code::kUnavailable,
                  "the name '" + at.host + "' is not known here: " + gai_strerror(e));
  }
  return Addresses(found, ::freeaddrinfo);
}

/// Whether somebody listens at one of the addresses. @return kUnavailable with the reason
Status knock(const Addresses& addresses, Deadline deadline) {
  int error = ETIMEDOUT;
  for (const addrinfo* it = addresses.get(); it != nullptr; it = it->ai_next) {
    const base::UniqueFd fd(::socket(it->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (fd && ::connect(fd.get(), it->ai_addr, it->ai_addrlen) == 0) return Status::ok();
    error = errno;
    if (!fd || error != EINPROGRESS) continue;
    pollfd out{fd.get(), POLLOUT, 0};
    error = ETIMEDOUT;
    if (::poll(&out, 1, milliseconds_until(deadline)) != 1) continue;
    socklen_t size = sizeof error;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0) {
      return Status::ok();
    }
  }
  return {Code::kUnavailable, std::system_category().message(error)};
}

struct SocketCloser {
  void operator()(void* socket) const noexcept { zmq_close(socket); }
};
using Socket = std::unique_ptr<void, SocketCloser>;
struct ContextEnder {
  void operator()(void* context) const noexcept { zmq_ctx_term(context); }
};

std::vector<std::string> receive(void* socket) {
  std::vector<std::string> parts;
  for (bool more = true; more;) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) {
      zmq_msg_close(&part);
      return parts;
    }
    more = zmq_msg_more(&part) != 0;
    parts.emplace_back(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    zmq_msg_close(&part);
  }
  return parts;
}

Probe ended(ProbeEnd end, std::string text) {
  Probe probe;
  probe.end = end;
  probe.text = std::move(text);
  return probe;
}

/// What a socket's monitor has said so far.
struct Standing {
  bool is_connected = false;
  bool is_shaken = false;  ///< the handshake is over

  /// @return where the connection has ended
  std::optional<Probe> take(const std::vector<std::string>& event);
};

std::optional<Probe> Standing::take(const std::vector<std::string>& event) {
  std::uint16_t kind = 0;
  std::uint32_t value = 0;
  if (event.empty() || event[0].size() != sizeof kind + sizeof value) return std::nullopt;
  std::memcpy(&kind, event[0].data(), sizeof kind);
  std::memcpy(&value, event[0].data() + sizeof kind, sizeof value);
  switch (kind) {
    case ZMQ_EVENT_CONNECTED:
      is_connected = true;
      return std::nullopt;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
      is_shaken = true;
      return std::nullopt;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
      return ended(ProbeEnd::kKeyDenied, "it refused the key");
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
      return ended(ProbeEnd::kNoHandshake, value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
                                               ? "what listens there has no keys"
                                               : "what listens there has other keys");
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
    case ZMQ_EVENT_DISCONNECTED:
      if (is_shaken) return ended(ProbeEnd::kSilent, "it closed the connection without an answer");
      return ended(ProbeEnd::kNoHandshake, "it closed the connection in the handshake");
    case ZMQ_EVENT_CLOSED:
      return ended(ProbeEnd::kUnreachable, "nobody listens there");
    default:
      return std::nullopt;
  }
}

std::string hello_of(const Keys& keys) {
  const bool is_trainer = keys && keys->role() == keys::Role::kTrainer;
  protocol::Hello hello;
  hello.policy = kNoPolicy;
  hello.world_size = is_trainer ? 1 : 0;
  const protocol::Member member{is_trainer ? protocol::Role::kSource : protocol::Role::kReceiver,
                                is_trainer ? "rank-0" : "doctor-" + std::to_string(::getpid()), 1};
  return protocol::encode({{}, member, hello});
}

Probe read_answer(const std::string& bytes) {
  const auto message = protocol::decode(std::as_bytes(std::span(bytes.data(), bytes.size())));
  if (!message) {
    return ended(
        message.status().code() == Code::kMismatch ? ProbeEnd::kOtherVersion : ProbeEnd::kNonsense,
        message.status().message());
  }
  const auto* refused = std::get_if<protocol::Refused>(&message->body);
  if (refused == nullptr) return ended(ProbeEnd::kNonsense, "it did not refuse what it should");
  Probe probe = ended(ProbeEnd::kAnswered, refused->message);
  probe.run = message->run;
  if (refused->reason == protocol::Refusal::kProtocol) probe.end = ProbeEnd::kOtherVersion;
  if (refused->reason == protocol::Refusal::kRole) probe.end = ProbeEnd::kWrongRole;
  if (refused->reason == protocol::Refusal::kPolicy) {
    // policy "NAME" is published here, ...
    const auto begin = refused->message.find('"');
    const auto end = refused->message.find('"', begin + 1);
    if (end != std::string::npos) {
      probe.policy = refused->message.substr(begin + 1, end - begin - 1);
    }
  }
  return probe;
}

Probe converse(void* socket, void* monitor, Deadline deadline) {
  Standing standing;
  zmq_pollitem_t items[] = {{socket, 0, ZMQ_POLLIN, 0}, {monitor, 0, ZMQ_POLLIN, 0}};
  while (Clock::now() < deadline) {
    if (zmq_poll(items, 2, milliseconds_until(deadline)) < 0 && zmq_errno() != EINTR) break;
    if (const auto parts = receive(socket); !parts.empty()) return read_answer(parts.back());
    for (auto event = receive(monitor); !event.empty(); event = receive(monitor)) {
      if (auto end = standing.take(event)) return std::move(*end);
    }
  }
  if (standing.is_shaken) return ended(ProbeEnd::kSilent, "it did not answer in time");
  if (!standing.is_connected) return ended(ProbeEnd::kUnreachable, "no connection in time");
  return ended(ProbeEnd::kNoHandshake, "the handshake did not end in time");
}

Probe ask(const std::string& endpoint, const Keys& keys, bool is_ipv6, Deadline deadline) {
  const Clock::time_point began = Clock::now();
  const std::unique_ptr<void, ContextEnder> context(zmq_ctx_new());
  const Socket socket(context ? zmq_socket(context.get(), ZMQ_DEALER) : nullptr);
  const Socket monitor(context ? zmq_socket(context.get(), ZMQ_PAIR) : nullptr);
  const auto failed = [] { return ended(ProbeEnd::kUnreachable, zmq_strerror(zmq_errno())); };
  if (!socket || !monitor) return failed();
  const int none = 0;
  const int once = -1;
  const int ipv6 = is_ipv6 ? 1 : 0;
  const auto most = static_cast<std::int64_t>(protocol::kMaxTextBytes * 4);
  zmq_setsockopt(socket.get(), ZMQ_LINGER, &none, sizeof none);
  zmq_setsockopt(monitor.get(), ZMQ_LINGER, &none, sizeof none);
  zmq_setsockopt(socket.get(), ZMQ_RECONNECT_IVL, &once, sizeof once);
  zmq_setsockopt(socket.get(), ZMQ_IPV6, &ipv6, sizeof ipv6);
  zmq_setsockopt(socket.get(), ZMQ_MAXMSGSIZE, &most, sizeof most);
  if (keys) {
    if (Status s = keys::use_keys(socket.get(), *keys, keys::Role::kTrainer); !s) {
      return ended(ProbeEnd::kNoHandshake, s.message());
    }
  }
  if (zmq_socket_monitor(socket.get(), kMonitor, ZMQ_EVENT_ALL) != 0 ||
      zmq_connect(monitor.get(), kMonitor) != 0 ||
      zmq_connect(socket.get(), endpoint.c_str()) != 0) {
    return failed();
  }
  base::failpoint("probe.connecting", 0);
  const std::string hello = hello_of(keys);
  // EAGAIN: the connection has failed by now, and the monitor knows why.
  if (zmq_send(socket.get(), hello.data(), hello.size(), ZMQ_DONTWAIT) < 0 &&
      zmq_errno() != EAGAIN) {
    return failed();
  }
  Probe probe = converse(socket.get(), monitor.get(), deadline);
  zmq_socket_monitor(socket.get(), nullptr, 0);
  probe.took = Clock::now() - began;
  return probe;
}

}  // namespace

Probe probe_coordinator(const std::string& endpoint, const Keys& keys, Deadline deadline) {
  if (!endpoint.starts_with(kTcp)) return ask(endpoint, keys, false, deadline);
  const auto at = base::parse_host_port("coordinator", endpoint.substr(kTcp.size()));
  if (!at) return ended(ProbeEnd::kUnreachable, at.status().message());
  const auto addresses = resolve(*at);
  if (!addresses) return ended(ProbeEnd::kUnreachable, addresses.status().message());
  Probe probe = keys ? ask(endpoint, keys, at->host.find(':') != std::string::npos, deadline)
                     : ended(ProbeEnd::kNoHandshake, "tcp is always encrypted: keys are needed");
  // ZeroMQ does not say why it cannot connect. The trainer logs who only knocks, so that comes
  // last.
  if (!keys || probe.end == ProbeEnd::kUnreachable) {
    if (Status s = knock(*addresses, deadline); !s) {
      probe = ended(ProbeEnd::kUnreachable, s.message());
    }
  }
  return probe;
}

}  // namespace weightcast::stream
