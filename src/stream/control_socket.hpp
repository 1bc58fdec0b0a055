// The ZeroMQ sockets of the control plane, each owned by one I/O thread.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <weightcast/status.hpp>

namespace weightcast::stream {

/// A message from a peer of the server.
struct Received {
  std::string peer;   ///< the connection's routing id, made by the socket; empty at a client
  std::string bytes;
};

/// The coordinator's ROUTER. Thread safety: one thread.
class ControlServer {
 public:
  /// @param endpoint ipc://<path> (bound; refused where another file lies there)
  static Result<std::unique_ptr<ControlServer>> bind(const std::string& endpoint);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  /// The next message, without waiting. Messages that are not one plain part are dropped.
  std::optional<Received> receive();
  /// Never waits. @return kUnavailable: that peer is gone; kExhausted: its queue is full
  Status send(const std::string& peer, std::span<const char> bytes);
  /// For zmq::poll (zmq_pollitem_t::socket).
  void* handle() noexcept;

 private:
  struct Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A member's DEALER. Thread safety: one thread.
class ControlClient {
 public:
  /// Connects in the background; messages are refused until the connection stands.
  static Result<std::unique_ptr<ControlClient>> connect(const std::string& endpoint);
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  std::optional<Received> receive();
  /// Never waits. @return kUnavailable where there is no connection (yet) or its queue is full
  Status send(std::span<const char> bytes);
  void* handle() noexcept;

 private:
  struct Impl;
  explicit ControlClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::stream
