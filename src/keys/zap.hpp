// Who may connect: the ZAP handler of a ZeroMQ context, for the CURVE servers in it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <weightcast/status.hpp>

#include "keys/key_ring.hpp"

namespace weightcast::keys {

/// Allows connections by the lists of a key ring, counts those that fail, and logs some of them.
/// Every message of a connection that was allowed carries its role (see role_of_message).
///
/// One for each context, for one server socket in it; has a thread of its own, which ends with the
/// context. Thread safety: counters from any thread, everything else from the owner's.
class Zap {
 public:
  /// @param context a ZeroMQ context (void* as zmq.h has it) that outlives this object
  /// @return kExists where the context has a handler, kExhausted
  static Result<std::unique_ptr<Zap>> start(void* context, std::shared_ptr<const KeyRing> ring);

  /// Close the server socket first. Shuts the context down (zmq_ctx_shutdown: no socket in it works
  /// after that, what lingers still goes out) and waits for the thread, which waits for nobody.
  ~Zap();
  Zap(const Zap&) = delete;
  Zap& operator=(const Zap&) = delete;

  /// Makes a socket a CURVE server with the ring's own key, which takes allowed clients alone.
  /// Call it once, before the socket binds.
  Status protect(void* server_socket);

  /// Connections with a good handshake but a key that is on no list.
  std::uint64_t denied() const noexcept;
  /// Connections that ended before or in the handshake: no keys, the wrong server key, replayed or
  /// meaningless bytes, none at all; and those of denied().
  std::uint64_t failed_handshakes() const noexcept;

 private:
  struct Impl;
  explicit Zap(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Makes a socket a CURVE client with the ring's own key, for servers of that role. Before it
/// connects.
Status use_keys(void* client_socket, const KeyRing& ring, Role server);

/// The role by which the connection of a received message was allowed; none: the server is not
/// protected, or (never to be believed) had no handler.
/// @param message a zmq_msg_t*
std::optional<Role> role_of_message(void* message);

}  // namespace weightcast::keys
