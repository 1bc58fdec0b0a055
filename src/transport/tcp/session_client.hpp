// A receiver's way to ask the server beside a source for a place in an NCCL communicator.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <zmq.hpp>

#include "keys/key_ring.hpp"
#include "transport/nccl/session.hpp"
#include "transport/tcp/connection.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Carries the asks of a SessionGuest, and the answers. Nothing waits. Thread safety: one thread.
class SessionClient {
 public:
  /// @param share whose source is asked, for this version of it and later ones; endpoint and from_engine
  ///   say where
  /// @param keys null: no encryption, for tests of this folder alone
  /// @return kInvalid for the endpoint or a key that there is not, kExhausted
  static Result<std::unique_ptr<SessionClient>> open(const SegmentAddress& share,
                                                     std::shared_ptr<const keys::KeyRing> keys);
  ~SessionClient();
  SessionClient(const SessionClient&) = delete;
  SessionClient& operator=(const SessionClient&) = delete;

  /// Where there is no connection (yet), the ask is lost, and the guest asks again.
  void send(const SessionAsk& ask, Clock::time_point now);
  /// The answer to the last ask; what comes to older ones is dropped. A reply without an answer (a
  /// limit of the server, a role that may not ask) counts as one that refuses.
  std::optional<SessionAnswer> receive();

  /// What went wrong with the connection last, for messages.
  const std::string& trouble() const noexcept { return connection_->trouble(); }

 private:
  explicit SessionClient(SegmentAddress share) : share_(std::move(share)) {}

  const SegmentAddress share_;
  zmq::context_t context_{1};
  std::unique_ptr<Connection> connection_;
  std::uint64_t last_ = 0;  ///< id of the last ask
  Duration backoff_{};
  Clock::time_point reopen_at_{};  ///< where there is no connection
};

}  // namespace weightcast::transport
