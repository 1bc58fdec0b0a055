// A receiver's side of sessions (session.hpp). A pure state machine: answers, ends of flows and times in;
// asks and what to do out.
#pragma once

#include <cstdint>
#include <optional>

#include "transport/nccl/session.hpp"

namespace weightcast::transport {

/// A receiver's side, for one share of one version. Thread safety: one thread.
class SessionGuest {
 public:
  enum class Phase {
    kAsking,
    kFlowing,  ///< go() says where; then flow_ended()
    kDone,
    kFailed    ///< status(): take another transport
  };

  SessionGuest(const SessionOptions& options, SessionAsk first, Clock::time_point now);

  /// The ask to send now, if it is time for one.
  std::optional<SessionAsk> next_ask(Clock::time_point now);
  void answered(const SessionAnswer& answer, Clock::time_point now);
  /// At once. @param have buckets, from the first one on
  void flow_ended(const Status& status, std::uint32_t have, Clock::time_point now);
  /// After a failure: buffers are out of quarantine.
  void rested(Clock::time_point now);
  /// Its communicator of before is gone.
  void kept_lost() { ask_.kept = 0; }
  /// It cannot read others' memory: from here on it asks for a rank of its own.
  void share_with_nobody() { ask_.place.clear(); }
  void tick(Clock::time_point now);

  Phase phase() const noexcept { return phase_; }
  const SessionAnswer& go() const noexcept { return go_; }
  const Status& status() const noexcept { return status_; }

 private:
  void fail(Status why);

  const SessionOptions options_;
  SessionAsk ask_;
  Phase phase_ = Phase::kAsking;
  Clock::time_point next_ask_;
  Clock::time_point asking_since_;
  Clock::time_point heard_;
  std::uint32_t failures_ = 0;
  SessionAnswer go_;
  Status status_;
};

}  // namespace weightcast::transport
