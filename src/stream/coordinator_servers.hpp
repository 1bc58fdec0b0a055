// All sockets at which a coordinator is reached, as one.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <weightcast/status.hpp>

#include "protocol/coordinator.hpp"
#include "stream/control_socket.hpp"

namespace weightcast::stream {

/// A message and the connection that it came by.
struct FromPeer {
  protocol::Peer peer = 0;  ///< never 0
  std::string bytes;
  std::optional<keys::Role> role;  ///< as Received::role
};

/// The server for this host's members and, where the trainer listens, the one for others'.
/// Thread safety: one thread, as the servers themselves. The destructor is close(0).
class CoordinatorServers {
 public:
  /// @param endpoint ipc://..., of the meeting place
  /// @param listen "address:port", or empty: this host's members only
  /// @param keys needed with `listen`
  /// @return as ControlServer::bind
  static Result<CoordinatorServers> bind(const std::string& endpoint, const std::string& listen,
                                         const Keys& keys);

  /// The next message, without waiting, in turns from all.
  std::optional<FromPeer> receive();
  /// As ControlServer::send.
  Status send(protocol::Peer peer, const protocol::Message& message);

  /// "tcp://address:port" with the port that was chosen; empty where it does not listen.
  const std::string& listening() const noexcept { return listening_; }
  /// Connections over tcp that were refused, and messages whose connection makes no sense.
  std::uint64_t refused() const noexcept;
  /// For wait_for_work; null for one that is not there.
  std::array<void*, 2> handles() const noexcept;
  bool is_open() const noexcept { return servers_[0] != nullptr; }
  /// As ControlServer::close, for both.
  void close(std::chrono::milliseconds linger) noexcept;

 private:
  std::array<std::unique_ptr<ControlServer>, 2> servers_;  ///< ipc, tcp
  std::size_t turn_ = 0;
  std::string listening_;
  std::uint64_t refused_ = 0;
};

/// A connection's number: of server 0 to 15 and a routing id of 1 to 7 bytes; different ones have
/// different numbers, none is 0. None for an id that no ROUTER of ours makes. Pure.
std::optional<protocol::Peer> peer_number(std::size_t server, const std::string& routing_id);
/// What peer_number() was made from.
std::size_t server_of(protocol::Peer peer) noexcept;
std::string routing_id_of(protocol::Peer peer);

}  // namespace weightcast::stream
