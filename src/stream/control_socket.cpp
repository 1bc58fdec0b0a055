#include "stream/control_socket.hpp"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <zmq.hpp>

#include "base/host.hpp"
#include "keys/zap.hpp"

namespace weightcast::stream {
namespace {

constexpr std::size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

/// One call of receive() drops at most so many malformed messages, so that a peer that sends
/// nothing else cannot hold its thread.
constexpr int kMaxDropped = 64;

constexpr std::string_view kIpc = "ipc://";
constexpr std::string_view kTcp = "tcp://";

Status refuse(const std::string& endpoint) {
  return {
      Code::kInvalid,
      "expected an endpoint ipc:///<absolute path> or tcp://<host>:<port>, got '" + endpoint + "'"};
}

/// libzmq that is built with OpenPGM, as Debian's, sets that up with its first context and takes it
/// down with the last, while another thread may make one: a race. One that is never ended keeps it up.
zmq::context_t make_context() {
  static const auto* const kept = new zmq::context_t{1};
  static_cast<void>(kept);
  return zmq::context_t{1};
}

/// The path of an ipc endpoint.
Result<std::string> path_of(const std::string& endpoint) {
  if (endpoint.size() <= kIpc.size() || endpoint[kIpc.size()] != '/') return refuse(endpoint);
  std::string path = endpoint.substr(kIpc.size());
  if (path.size() > kMaxSocketPath) {
    return Status(Code::kInvalid, "the socket's path '" + path + "' is " +
                                      std::to_string(path.size()) + " bytes long, at most " +
                                      std::to_string(kMaxSocketPath) +
                                      " fit; choose a shorter directory (option `directory`, "
                                      "WEIGHTCAST_DIR)");
  }
  return path;
}

/// Host and port of a tcp endpoint.
Result<base::HostPort> address_of(const std::string& endpoint, const Keys& keys) {
  std::string address = endpoint.substr(kTcp.size());
  if (address.ends_with(":*")) address.back() = '0';
  auto at = base::parse_host_port("endpoint", address);
  if (!at) return refuse(endpoint);
  if (!keys) {
    return Status(Code::kInvalid, "expected keys for '" + endpoint +
                                      "': tcp is always encrypted; make some with `weightcast "
                                      "keygen` (option `keys`)");
  }
  return at;
}

bool is_ipc(const std::string& endpoint) { return endpoint.starts_with(kIpc); }
bool is_tcp(const std::string& endpoint) { return endpoint.starts_with(kTcp); }

Status failed(const std::string& what, const zmq::error_t& error) {
  const int number = error.num();
  const Code code = number == EMFILE || number == ENFILE || number == ENOMEM ? Code::kExhausted
                    : number == EADDRINUSE                                   ? Code::kExists
                                                                             : Code::kDenied;
  return {code, what + ": " + error.what()};
}

Status check_size(std::size_t size, const ControlLimits& limits) {
  if (size > 0 && size <= limits.message_bytes) return Status::ok();
  return {Code::kInvalid, "expected a message of 1 to " + std::to_string(limits.message_bytes) +
                              " bytes, got " + std::to_string(size) +
                              "; publish fewer tensors in one policy"};
}

/// A socket with a context of its own, which goes with it.
struct Socket {
  Socket(zmq::socket_type type, const ControlLimits& bounds) : limits(bounds) {
    // Sockets that are closed without a say do not make the context wait.
    context.set(zmq::ctxopt::blocky, 0);
    socket = zmq::socket_t(context, type);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(limits.message_bytes));
    socket.set(zmq::sockopt::sndhwm, limits.queued_messages);
    socket.set(zmq::sockopt::rcvhwm, limits.queued_messages);
    // Milliseconds. One that connects and says nothing is cut off; one that lost its peer tries
    // again soon: on one host there is no network to spare.
    socket.set(zmq::sockopt::handshake_ivl, 3000);
    socket.set(zmq::sockopt::reconnect_ivl, 20);
    socket.set(zmq::sockopt::reconnect_ivl_max, 500);
  }

  /// The parts of the next message; 0 where there is none.
  int receive(zmq::message_t& first, zmq::message_t& second) {
    if (!receive_part(first, zmq::recv_flags::dontwait)) return 0;
    int parts = 1;
    if (first.more()) {
      // The parts of a message come together.
      if (!receive_part(second, zmq::recv_flags::dontwait)) return parts;
      parts = 2;
      bool more = second.more();
      for (zmq::message_t rest; more; more = rest.more()) {
        ++parts;
        if (!receive_part(rest, zmq::recv_flags::dontwait)) break;
      }
    }
    return parts;
  }

  void close(std::chrono::milliseconds linger) noexcept {
    if (!socket) return;
    try {
      socket.set(zmq::sockopt::linger, static_cast<int>(linger.count()));
    } catch (const zmq::error_t&) {
      // It stays 0, which only means that less goes out.
    }
    socket.close();
    // What the key check counted is still asked for.
    if (zap) refused_before = zap->failed_handshakes();
    zap.reset();
    context.close();
  }

  std::uint64_t refused_connections() const noexcept {
    return zap ? zap->failed_handshakes() : refused_before;
  }

  /// A connection that is cut without a word (a host that is gone, a cable) ends all the same.
  void use_tcp(const base::HostPort& at) {
    // Names lead to IPv4: with both, one that listens on IPv4 alone would not be found.
    socket.set(zmq::sockopt::ipv6, at.host.find(':') != std::string::npos);
    // The kernel's probes, not ZeroMQ's heartbeats: those end the whole process where a connection
    // breaks while its receive queue is full (libzmq 4.3.4, issues 3937 and 4364). Seconds; what was
    // sent and is not acknowledged ends a connection after so many milliseconds.
    socket.set(zmq::sockopt::tcp_keepalive, 1);
    socket.set(zmq::sockopt::tcp_keepalive_idle, 4);
    socket.set(zmq::sockopt::tcp_keepalive_intvl, 2);
    socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
    socket.set(zmq::sockopt::tcp_maxrt, 10'000);
  }

  ControlLimits limits;
  zmq::context_t context = make_context();
  std::uint64_t refused_before = 0;
  std::unique_ptr<keys::Zap> zap;  ///< of a server over tcp; closed after the socket
  zmq::socket_t socket;

 private:
  bool receive_part(zmq::message_t& part, zmq::recv_flags flags) {
    while (true) {
      try {
        return socket.recv(part, flags).has_value();
      } catch (const zmq::error_t& error) {
        if (error.num() != EINTR) return false;
      }
    }
  }
};

}  // namespace

struct ControlServer::Impl : Socket {
  explicit Impl(const ControlLimits& bounds) : Socket(zmq::socket_type::router, bounds) {
    socket.set(zmq::sockopt::router_mandatory, true);
  }

  static Status bind_ipc(const std::string& at, const ControlLimits& limits,
                         std::unique_ptr<Impl>& out) {
    const auto path = path_of(at);
    if (!path) return path.status();
    // ZeroMQ would unlink whatever lies there.
    struct stat there{};
    if (::lstat(path->c_str(), &there) == 0) {
      return {Code::kExists, "'" + *path +
                                 "' exists already; remove it if no process uses it, or choose "
                                 "another directory (option `directory`, WEIGHTCAST_DIR)"};
    }
    auto impl = std::make_unique<Impl>(limits);
    impl->socket.bind(at);
    impl->endpoint = at;
    if (::lstat(path->c_str(), &impl->file) == 0) impl->path = *path;
    out = std::move(impl);
    return Status::ok();
  }

  static Status bind_tcp(const std::string& at, const ControlLimits& limits, const Keys& keys,
                         std::unique_ptr<Impl>& out) {
    const auto address = address_of(at, keys);
    if (!address) return address.status();
    auto impl = std::make_unique<Impl>(limits);
    impl->use_tcp(*address);
    // A burst of connections (all engines of a job, or a flood) must not cost others a second.
    impl->socket.set(zmq::sockopt::backlog, 1024);
    auto zap = keys::Zap::start(impl->context.handle(), keys);
    if (!zap) return zap.status();
    impl->zap = std::move(*zap);
    if (Status s = impl->zap->protect(impl->socket.handle()); !s) return s;
    impl->socket.bind(std::string(kTcp) + base::to_string(*address));
    impl->endpoint = impl->socket.get(zmq::sockopt::last_endpoint);
    out = std::move(impl);
    return Status::ok();
  }

  /// ZeroMQ leaves the file of a socket that was bound.
  void close_and_remove(std::chrono::milliseconds linger) noexcept {
    Socket::close(linger);
    struct stat now{};
    if (!path.empty() && ::lstat(path.c_str(), &now) == 0 && now.st_dev == file.st_dev &&
        now.st_ino == file.st_ino) {
      ::unlink(path.c_str());
    }
    path.clear();
  }

  std::string endpoint;
  std::string path;    ///< empty where there is no file of ours
  struct stat file{};  ///< what bind() made there
};

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlServer::~ControlServer() { close(std::chrono::milliseconds(0)); }

Result<std::unique_ptr<ControlServer>> ControlServer::bind(const std::string& endpoint,
                                                           const ControlLimits& limits,
                                                           const Keys& keys) {
  try {
    std::unique_ptr<Impl> impl;
    Status status = is_ipc(endpoint)   ? Impl::bind_ipc(endpoint, limits, impl)
                    : is_tcp(endpoint) ? Impl::bind_tcp(endpoint, limits, keys, impl)
                                       : refuse(endpoint);
    if (!status) return status;
    return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
  } catch (const zmq::error_t& error) {
    return failed("cannot listen at '" + endpoint + "'", error);
  }
}

const std::string& ControlServer::endpoint() const noexcept { return impl_->endpoint; }

std::uint64_t ControlServer::refused_connections() const noexcept {
  return impl_->refused_connections();
}

std::optional<Received> ControlServer::receive() {
  if (!impl_->socket) return std::nullopt;
  for (int i = 0; i < kMaxDropped; ++i) {
    zmq::message_t peer;
    zmq::message_t body;
    const int parts = impl_->receive(peer, body);
    if (parts == 0) return std::nullopt;
    if (parts != 2) continue;
    const auto role = impl_->zap ? keys::role_of_message(body.handle()) : std::nullopt;
    if (impl_->zap && !role) continue;
    return Received{.peer = peer.to_string(), .bytes = body.to_string(), .role = role};
  }
  return std::nullopt;
}

Status ControlServer::send(const std::string& peer, std::span<const char> bytes) {
  if (!impl_->socket) return {Code::kCancelled, "the coordinator's socket is closed"};
  if (Status s = check_size(bytes.size(), impl_->limits); !s) return s;
  try {
    const auto taken =
        impl_->socket.send(zmq::buffer(peer), zmq::send_flags::sndmore | zmq::send_flags::dontwait);
    if (!taken) {
      return {Code::kExhausted,
              "the member does not read: " + std::to_string(impl_->limits.queued_messages) +
                  " messages wait for it"};
    }
    // The socket has chosen the connection: it takes the rest without waiting.
    if (!impl_->socket.send(zmq::buffer(bytes.data(), bytes.size()), zmq::send_flags::dontwait)) {
      return {Code::kInternal, "ZeroMQ took half of a message"};
    }
    return Status::ok();
  } catch (const zmq::error_t& error) {
    if (error.num() == EHOSTUNREACH) return {Code::kUnavailable, "the member's connection is gone"};
    return failed("cannot send to a member", error);
  }
}

void* ControlServer::handle() noexcept { return impl_->socket.handle(); }

void ControlServer::close(std::chrono::milliseconds linger) noexcept {
  impl_->close_and_remove(linger);
}

struct ControlClient::Impl : Socket {
  using Socket::Socket;
};

ControlClient::ControlClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlClient::~ControlClient() { close(std::chrono::milliseconds(0)); }

Result<std::unique_ptr<ControlClient>> ControlClient::connect(const std::string& endpoint,
                                                              const ControlLimits& limits,
                                                              const Keys& keys) {
  std::optional<base::HostPort> tcp;
  if (is_tcp(endpoint)) {
    const auto address = address_of(endpoint, keys);
    if (!address) return address.status();
    if (address->port == 0 || base::is_any_address(address->host)) return refuse(endpoint);
    tcp = *address;
  } else if (!is_ipc(endpoint)) {
    return refuse(endpoint);
  } else if (const auto path = path_of(endpoint); !path) {
    return path.status();
  }
  try {
    auto impl = std::make_unique<Impl>(zmq::socket_type::dealer, limits);
    // Nothing is kept for a coordinator that is not there: it would get what is long outdated.
    impl->socket.set(zmq::sockopt::immediate, true);
    if (tcp) {
      impl->use_tcp(*tcp);
      if (Status s = keys::use_keys(impl->socket.handle(), *keys, keys::Role::kTrainer); !s) {
        return s;
      }
    }
    impl->socket.connect(tcp ? std::string(kTcp) + base::to_string(*tcp) : endpoint);
    return std::unique_ptr<ControlClient>(new ControlClient(std::move(impl)));
  } catch (const zmq::error_t& error) {
    return failed("cannot connect to '" + endpoint + "'", error);
  }
}

std::optional<Received> ControlClient::receive() {
  if (!impl_->socket) return std::nullopt;
  for (int i = 0; i < kMaxDropped; ++i) {
    zmq::message_t body;
    zmq::message_t rest;
    const int parts = impl_->receive(body, rest);
    if (parts == 0) return std::nullopt;
    if (parts == 1) return Received{.peer = {}, .bytes = body.to_string(), .role = {}};
  }
  return std::nullopt;
}

Status ControlClient::send(std::span<const char> bytes) {
  if (!impl_->socket) return {Code::kCancelled, "the member's socket is closed"};
  if (Status s = check_size(bytes.size(), impl_->limits); !s) return s;
  try {
    if (impl_->socket.send(zmq::buffer(bytes.data(), bytes.size()), zmq::send_flags::dontwait)) {
      return Status::ok();
    }
    return {Code::kUnavailable, "the coordinator is not there, or does not read"};
  } catch (const zmq::error_t& error) {
    return failed("cannot send to the coordinator", error);
  }
}

void* ControlClient::handle() noexcept { return impl_->socket.handle(); }

void ControlClient::close(std::chrono::milliseconds linger) noexcept { impl_->close(linger); }

}  // namespace weightcast::stream
