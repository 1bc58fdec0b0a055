#include "stream/control_socket.hpp"

#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <zmq.hpp>

namespace weightcast::stream {
namespace {

constexpr std::size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

/// One call of receive() drops at most so many malformed messages, so that a peer that sends nothing
/// else cannot hold its thread.
constexpr int kMaxDropped = 64;

Result<std::string> path_of(const std::string& endpoint) {
  constexpr std::string_view kScheme = "ipc://";
  if (!endpoint.starts_with(kScheme) || endpoint.size() <= kScheme.size() ||
      endpoint[kScheme.size()] != '/') {
    return Status(Code::kInvalid,
                  "expected an endpoint ipc:///<absolute path>, got '" + endpoint + "'");
  }
  std::string path = endpoint.substr(kScheme.size());
  if (path.size() > kMaxSocketPath) {
    return Status(Code::kInvalid, "the socket's path '" + path + "' is " +
                                      std::to_string(path.size()) + " bytes long, at most " +
                                      std::to_string(kMaxSocketPath) +
                                      " fit; choose a shorter directory (option `directory`, "
                                      "WEIGHTCAST_DIR)");
  }
  return path;
}

Status failed(const std::string& what, const zmq::error_t& error) {
  const int number = error.num();
  const Code code = number == EMFILE || number == ENFILE || number == ENOMEM ? Code::kExhausted
                    : number == EADDRINUSE                                  ? Code::kExists
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
    context.close();
  }

  ControlLimits limits;
  zmq::context_t context{1};
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
  using Socket::Socket;

  /// ZeroMQ leaves the file of a socket that was bound.
  void close_and_remove(std::chrono::milliseconds linger) noexcept {
    Socket::close(linger);
    struct stat now {};
    if (!path.empty() && ::lstat(path.c_str(), &now) == 0 && now.st_dev == file.st_dev &&
        now.st_ino == file.st_ino) {
      ::unlink(path.c_str());
    }
    path.clear();
  }

  std::string path;     ///< empty where there is no file of ours
  struct stat file {};  ///< what bind() made there
};

ControlServer::ControlServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

ControlServer::~ControlServer() { close(std::chrono::milliseconds(0)); }

Result<std::unique_ptr<ControlServer>> ControlServer::bind(const std::string& endpoint,
                                                           const ControlLimits& limits) {
  const auto path = path_of(endpoint);
  if (!path) return path.status();
  // ZeroMQ would unlink whatever lies there.
  struct stat there {};
  if (::lstat(path->c_str(), &there) == 0) {
    return Status(Code::kExists, "'" + *path + "' exists already; remove it if no process uses it, "
                                               "or choose another directory (option `directory`, "
                                               "WEIGHTCAST_DIR)");
  }
  try {
    auto impl = std::make_unique<Impl>(zmq::socket_type::router, limits);
    impl->socket.set(zmq::sockopt::router_mandatory, true);
    impl->socket.bind(endpoint);
    if (::lstat(path->c_str(), &impl->file) == 0) impl->path = *path;
    return std::unique_ptr<ControlServer>(new ControlServer(std::move(impl)));
  } catch (const zmq::error_t& error) {
    return failed("cannot listen at '" + endpoint + "'", error);
  }
}

std::optional<Received> ControlServer::receive() {
  if (!impl_->socket) return std::nullopt;
  for (int i = 0; i < kMaxDropped; ++i) {
    zmq::message_t peer;
    zmq::message_t body;
    const int parts = impl_->receive(peer, body);
    if (parts == 0) return std::nullopt;
    if (parts == 2) return Received{.peer = peer.to_string(), .bytes = body.to_string()};
  }
  return std::nullopt;
}

Status ControlServer::send(const std::string& peer, std::span<const char> bytes) {
  if (!impl_->socket) return {Code::kCancelled, "the coordinator's socket is closed"};
  if (Status s = check_size(bytes.size(), impl_->limits); !s) return s;
  try {
    const auto taken = impl_->socket.send(zmq::buffer(peer),
                                          zmq::send_flags::sndmore | zmq::send_flags::dontwait);
    if (!taken) {
      return {Code::kExhausted, "the member does not read: " +
                                    std::to_string(impl_->limits.queued_messages) +
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
                                                              const ControlLimits& limits) {
  if (const auto path = path_of(endpoint); !path) return path.status();
  try {
    auto impl = std::make_unique<Impl>(zmq::socket_type::dealer, limits);
    // Nothing is kept for a coordinator that is not there: it would get what is long outdated.
    impl->socket.set(zmq::sockopt::immediate, true);
    impl->socket.connect(endpoint);
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
    if (parts == 1) return Received{.peer = {}, .bytes = body.to_string()};
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
