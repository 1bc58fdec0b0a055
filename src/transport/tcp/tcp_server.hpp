// Serves the versions of a store to other hosts: beside a trainer rank's slab, or an engine's
// image.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "keys/key_ring.hpp"
#include "transport/nccl/session.hpp"
#include "transport/tcp/server_peers.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

struct TcpServerOptions {
  std::string bind = "tcp://127.0.0.1:*";  ///< `*` for a port that is free
  std::string advertise{};  ///< host that others reach this one by; empty: the one in `bind`
  /// Whose keys it uses and whom it lets in. Null: no encryption and everybody, for benchmarks and
  /// tests of this folder alone; no public option leads here.
  std::shared_ptr<const keys::KeyRing> keys{};
  std::set<keys::Role> clients{keys::Role::kEngine};  ///< who may ask
  TcpServerLimits limits{};
  int io_threads = 1;           ///< of ZeroMQ; one carries a few peers, and encrypts for them
  int socket_buffer_bytes = 0;  ///< a connection, in the kernel; 0: as the system sizes it
  /// Answers who asks for a place in an NCCL communicator. Called on the server's thread; must not
  /// wait. Empty: they are told to take another transport.
  std::function<SessionAnswer(const SessionAsk&)> sessions{};
  /// For tests: true sends the next bucket with a byte spoiled on the way.
  std::function<bool()> spoil{};
};

struct TcpServerCounters {
  std::uint64_t requests = 0;
  std::uint64_t bytes_sent = 0;         ///< handed to ZeroMQ, without headers
  std::uint64_t refused = 0;            ///< beyond a limit, or of a role that may not ask
  std::uint64_t invalid = 0;            ///< requests that made no sense
  std::uint64_t denied_handshakes = 0;  ///< good handshakes with a key that is on no list
  std::uint64_t failed_handshakes = 0;  ///< those, and everything else that never became a peer
  std::uint64_t spoiled = 0;            ///< by TcpServerOptions::spoil
  std::uint64_t peers = 0;              ///< now
  std::uint64_t holds = 0;              ///< now: versions held, a peer each
};

/// One thread owns the socket, reads the store and answers; ZeroMQ's own send straight out of the
/// segments' bytes. A version is held from a peer's first request until it says release, is not
/// heard of for limits.silence (a connection that breaks may come back until then), or close(); and
/// in any case until the last reply out of it is sent or dropped. Thread safety: counters from any
/// thread, the rest from the owner's.
class TcpServer {
 public:
  /// @return kInvalid for an address without a host that others could reach, kExists where the port
  ///   is taken, kDenied where the address is not this host's, kExhausted
  static Result<std::unique_ptr<TcpServer>> start(const TcpServerOptions& options,
                                                  std::shared_ptr<SegmentStore> store);
  /// As close() without a wait.
  ~TcpServer();
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  /// "tcp://host:port", for plan::Share::endpoint.
  const std::string& endpoint() const noexcept;
  TcpServerCounters counters() const noexcept;

  /// Takes no more requests, lets replies on their way go out, and lets go of everything.
  /// @return kDeadline where some replies were dropped
  Status close(Deadline deadline);

 private:
  struct Impl;
  explicit TcpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::transport
