// A receiver's connection to one server, and what becomes of it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "keys/key_ring.hpp"
#include "transport/tcp/wire.hpp"

namespace weightcast::transport {

struct ConnectionOptions {
  std::string endpoint;
  std::string identity;  ///< the same for all connections of one lane; nobody can guess it
  std::shared_ptr<const keys::KeyRing> keys;  ///< null: no encryption
  keys::Role server = keys::Role::kTrainer;   ///< whose key the server must have
  int queued_messages = 64;
  int socket_buffer_bytes = 0;
};

/// ZeroMQ connects in the background, again and again; where it gives up (a handshake that failed,
/// a server that went silent), reopen() begins anew. Thread safety: one thread. Nothing waits.
class Connection {
 public:
  enum class Change {
    kNone,
    kUp,      ///< the handshake succeeded
    kLost,    ///< it was up and is gone: what was asked will not be answered
    kFailed,  ///< a handshake failed
    kDenied   ///< the server does not know this process's key
  };
  struct Reply {
    DataReply header;
    zmq::message_t payload;
  };

  /// @return kInvalid for the endpoint or a key that there is not, kExhausted
  static Result<std::unique_ptr<Connection>> open(zmq::context_t& context,
                                                  ConnectionOptions options);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// A new socket to the same server. @return as open(); there is no connection then
  Status reopen();

  /// @return false where there is no connection now, or its queue is full
  bool send(const std::string& request);
  /// The next reply that makes sense.
  std::optional<Reply> receive();
  /// What happened since the last call, one thing at a time.
  Change next_change();

  bool up() const noexcept { return up_; }
  /// What went wrong last, for messages.
  const std::string& trouble() const noexcept { return trouble_; }

  /// For zmq::poll; null where there is none.
  void* handle() noexcept { return socket_.handle(); }
  void* events_handle() noexcept { return events_.handle(); }

  /// Ends the connection, but lets what was sent just now go out: for at most 100 ms, in the
  /// background.
  void part() noexcept;

 private:
  Connection(zmq::context_t& context, ConnectionOptions options);
  void shut() noexcept;

  zmq::context_t& context_;
  const ConnectionOptions options_;
  zmq::socket_t socket_;
  zmq::socket_t events_;
  bool up_ = false;
  std::string trouble_ = "nobody has answered yet";
};

}  // namespace weightcast::transport
