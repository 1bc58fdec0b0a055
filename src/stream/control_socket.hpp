// The ZeroMQ sockets of the control plane, each owned by one I/O thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <weightcast/status.hpp>

#include "keys/key_ring.hpp"
#include "protocol/wire.hpp"

namespace weightcast::stream {

/// A message from a peer of the server.
struct Received {
  std::string peer;   ///< the connection's routing id, made by the socket; empty at a client
  std::string bytes;
  std::optional<keys::Role> role{};  ///< at a server over tcp, whose key it has; none over ipc, where
                                     ///< the directory lets nobody but this user in
};

/// Bounds on what a connection may take.
struct ControlLimits {
  std::size_t message_bytes = protocol::kMaxMessageBytes;  ///< larger ones end their connection
  int queued_messages = 128;                               ///< a connection, in either direction
};

/// Who may connect over tcp, and as whom a member does; null for ipc.
using Keys = std::shared_ptr<const keys::KeyRing>;

/// The coordinator's ROUTER. Owns a ZeroMQ context and thereby two threads, over tcp three.
/// Thread safety: one thread. The destructor is close(0).
class ControlServer {
 public:
  /// @param endpoint ipc:///<absolute path>, or tcp://<address>:<port> where port 0 or `*` means any
  ///   that is free. An address is numeric; `*` and 0.0.0.0 are all of this host's
  /// @param keys needed over tcp, which is always encrypted
  /// @return kExists where any file lies there already (it is left alone), or the port is taken;
  ///   kInvalid for the endpoint, kDenied
  static Result<std::unique_ptr<ControlServer>> bind(const std::string& endpoint,
                                                     const ControlLimits& limits = {},
                                                     const Keys& keys = {});
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  /// Where it listens, with the port that was chosen.
  const std::string& endpoint() const noexcept;
  /// The next message, without waiting. Messages that are not one plain part are dropped, and over
  /// tcp all whose connection was not allowed by a key.
  std::optional<Received> receive();
  /// Never waits. @return kUnavailable: that peer is gone; kExhausted: its queue is full; kInvalid:
  ///   empty or larger than the limit; kCancelled: closed
  Status send(const std::string& peer, std::span<const char> bytes);
  /// Connections over tcp that were refused: no keys, wrong ones, replayed bytes, none.
  std::uint64_t refused_connections() const noexcept;
  /// For zmq::poll (zmq_pollitem_t::socket). Null once closed.
  void* handle() noexcept;
  /// Ends all connections and removes the socket file. Waits for at most `linger`, and only where
  /// messages have not gone out yet.
  void close(std::chrono::milliseconds linger) noexcept;

 private:
  struct Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// A member's DEALER. Owns a ZeroMQ context and thereby two threads.
/// Thread safety: one thread. The destructor is close(0).
class ControlClient {
 public:
  /// Connects in the background, again and again; messages are refused until the connection stands.
  /// @param endpoint as of the server; over tcp also a name, and never port 0
  /// @return kInvalid for the endpoint, kDenied
  static Result<std::unique_ptr<ControlClient>> connect(const std::string& endpoint,
                                                        const ControlLimits& limits = {},
                                                        const Keys& keys = {});
  ~ControlClient();
  ControlClient(const ControlClient&) = delete;
  ControlClient& operator=(const ControlClient&) = delete;

  std::optional<Received> receive();
  /// Never waits. @return kUnavailable where there is no connection (yet) or its queue is full;
  ///   kInvalid, kCancelled as above
  Status send(std::span<const char> bytes);
  void* handle() noexcept;
  /// As above; a Bye needs some 100 ms to go out.
  void close(std::chrono::milliseconds linger) noexcept;

 private:
  struct Impl;
  explicit ControlClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::stream
