// An engine in the protocol: attempts, staging, the switch, and what it serves.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "protocol/message.hpp"

namespace weightcast::protocol {

struct ReceiverConfig {
  std::string name;
  std::string policy;
  std::uint64_t incarnation = 1;  ///< the first one; rises at every rejoin
  bool in_place = false;          ///< bytes come after the commit (activation serial)
  bool over_network = false;      ///< bytes come over the network
  std::string clock;              ///< identity of the host's monotonic clock
  std::string relay_endpoint;     ///< where joiners may read what is served here; empty: nowhere
  std::string host;               ///< its name, for observers
  std::uint64_t pid = 0;
  Duration heartbeat = std::chrono::milliseconds(100);
  Duration member_timeout = std::chrono::seconds(2);
};

/// Fetch, place and verify; ends with one stage_done(op). An engine of activation serial only makes
/// sure here that it could: its bytes come with Switch.
struct StartStage {
  std::uint64_t op = 0;
  Version version;
  plan::Manifest manifest;
  std::string relay{};  ///< endpoint of an engine that serves this version; empty: from the sources
};
/// stage_done(op), or the end of a Switch in place, should come soon, whatever its status; what was
/// staged is then dropped.
struct CancelStage {
  std::uint64_t op = 0;
};
/// Forget what op has staged. Done when the call returns.
struct DropStaged {
  std::uint64_t op = 0;
};
/// Serve what op has staged; ends with one switched(op), or, where the bytes only come now and did
/// not come whole, with one switch_failed(op).
struct Switch {
  std::uint64_t op = 0;
};
/// Its bytes may be read behind their writers into what nobody uses. Has no end to report; anything that
/// comes after it takes precedence.
struct ReadAhead {
  Version version;
  plan::Manifest manifest;  ///< its digests are zero
};
using ReceiverAction = std::variant<StartStage, CancelStage, DropStaged, Switch, ReadAhead>;

/// Sans-I/O: events in, messages and actions out. Not thread safe.
///
/// At most one stage operation exists at a time: a new one starts only after the former has ended
/// or was dropped, because both use the same second copy.
class Receiver {
 public:
  Receiver(ReceiverConfig config, Clock::time_point now);

  void receive(Clock::time_point now, const Message& message);
  void stage_done(Clock::time_point now, std::uint64_t op, const Status& status);
  void switched(Clock::time_point now, std::uint64_t op);
  /// There is nothing to serve until a version at least as new has come.
  void switch_failed(Clock::time_point now, std::uint64_t op, const Status& status);
  /// Whether the bytes of a version are coming in place, so that none is served.
  void set_dirty(Clock::time_point now, bool dirty);
  /// Bytes that the present operation has placed; said with the next state, which waits for nothing.
  void set_progress(std::uint64_t bytes) noexcept { progress_ = bytes; }
  /// For observers; said with one state in each heartbeat.
  void set_report(ReceiverReport report) { report_ = std::move(report); }
  bool wants_report(Clock::time_point now) const noexcept { return now >= next_report_; }
  void set_lagging(Clock::time_point now, bool lagging);
  /// From now on bytes come after the commit. Joins again, so that the coordinator knows; what is
  /// being staged is given up.
  void become_in_place(Clock::time_point now);
  void tick(Clock::time_point now);
  void leave(Clock::time_point now, const Version& serves);
  Clock::time_point next_wakeup() const noexcept { return next_send_; }

  std::vector<Message> take_outbox() { return std::exchange(outbox_, {}); }
  std::vector<ReceiverAction> take_actions() { return std::exchange(actions_, {}); }
  /// True once after contact was lost: the connection should be made anew.
  bool take_reconnect() noexcept { return std::exchange(reconnect_, false); }

  bool attached() const noexcept { return joined_; }
  const Run& run() const noexcept { return run_; }
  const Version& serving() const noexcept { return serving_; }
  /// The newest version that the trainer was heard to have published.
  const Version& published() const noexcept { return published_; }
  std::uint64_t rejoined() const noexcept { return rejoined_; }
  std::uint64_t dropped() const noexcept { return dropped_; }
  bool lagging() const noexcept { return lagging_; }
  Phase phase() const noexcept { return phase_; }
  const std::string& failure() const noexcept { return failure_; }
  std::optional<Refused> refused() const { return refused_; }
  std::uint64_t incarnation() const noexcept { return me_.incarnation; }

 private:
  enum class OpState { kStaging, kCancelled, kStaged, kSwitching };
  struct Op {
    std::uint64_t id = 0;
    std::uint64_t attempt = 0;
    Version version;
    OpState state = OpState::kStaging;
  };
  struct Wanted {
    std::uint64_t attempt = 0;
    Version version;
    plan::Manifest manifest;
    std::string relay;
  };

  void on_prepare(Clock::time_point now, const Message& message, const Prepare& prepare);
  void on_orders(Clock::time_point now, const ReceiverOrders& orders);
  void stop_op();
  void start_wanted();
  void rejoin(Clock::time_point now);
  void say_hello(Clock::time_point now);
  void send_state(Clock::time_point now);
  void send(Body body);

  ReceiverConfig config_;
  Member me_;
  Run run_;  ///< the newest ever obeyed: older ones never are again
  bool joined_ = false;
  bool left_ = false;
  bool reconnect_ = false;
  bool lagging_ = false;
  bool dirty_ = false;
  std::uint64_t progress_ = 0;
  Version serving_;
  Version published_;
  std::int64_t applied_at_ns_ = 0;
  std::uint64_t attempt_ = 0;
  Phase phase_ = Phase::kIdle;
  std::string failure_;
  std::optional<Op> op_;
  std::optional<Wanted> wanted_;  ///< waits for the end of op_
  std::uint64_t next_op_ = 1;
  ReceiverOrders orders_;
  std::uint64_t sequence_ = 0;
  std::optional<Refused> refused_;
  std::uint64_t rejoined_ = 0;
  std::uint64_t dropped_ = 0;
  Clock::time_point last_heard_;
  Clock::time_point last_tick_;
  Clock::time_point next_send_;
  std::optional<ReceiverReport> report_;
  Clock::time_point next_report_;
  std::vector<Message> outbox_;
  std::vector<ReceiverAction> actions_;
};

}  // namespace weightcast::protocol
