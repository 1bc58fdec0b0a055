// A trainer rank in the protocol: publish points, grants, captures and sealed shares.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "protocol/message.hpp"
#include "protocol/slot_book.hpp"

namespace weightcast::protocol {

struct SourceConfig {
  std::uint32_t rank = 0;
  std::uint32_t world_size = 1;
  std::string launch;
  std::string policy;
  std::uint64_t incarnation = 1;  ///< the first one; rises at every rejoin
  std::string clock;              ///< identity of this host's monotonic clock
  std::string host;               ///< its name, for observers
  std::uint64_t pid = 0;
  std::uint64_t max_coalesced = ~std::uint64_t{0};
  Duration heartbeat = std::chrono::milliseconds(100);
  Duration member_timeout = std::chrono::seconds(2);
};

/// What happens at a publish point.
struct PointDecision {
  enum class Kind { kCapture, kCoalesce, kWait };
  Kind kind = Kind::kCoalesce;
  std::uint64_t point = 0;
  std::uint32_t slot = 0;   ///< kCapture: locked for writing
  Run run;                  ///< kCapture: of the version to be
  bool compare = false;     ///< kCapture: digest the whole policy too
};

/// Sans-I/O: events in, messages out of take_outbox(). Not thread safe: whoever drives it locks.
///
/// A capture that at_point() began ends with exactly one capture_sealed() or capture_failed(), even
/// when wants_cancel() asks for its end meanwhile: until then its slot is in quarantine.
class Source {
 public:
  Source(SourceConfig config, SlotBook& slots, Clock::time_point now);

  // The trainer's thread.
  /// @param may_wait false: decide now
  /// @param insist for a flush: take the last point again, which was not captured (or is void), and
  ///   wait even though it could be coalesced
  PointDecision at_point(Clock::time_point now, bool may_wait, bool insist = false);
  /// The step before this point failed: the point counts, and is void if it was granted.
  std::uint64_t skip_point(Clock::time_point now, const std::string& why);
  /// Asks for the verdict on the newest point that was captured here. @return false: there is none
  bool request_flush(Clock::time_point now);
  void end_flush() noexcept { flush_.reset(); verdict_.reset(); }
  const std::optional<Verdict>& verdict() const noexcept { return verdict_; }

  /// A capture has begun whose bytes may be read while they come.
  void capture_begun(plan::Share share);

  // The end of a capture.
  void capture_sealed(Clock::time_point now, Sealed sealed);
  void capture_failed(Clock::time_point now, const std::string& why);
  /// The capture under way is void; its end is still awaited.
  bool wants_cancel() const noexcept { return capture_ && capture_->cancelled; }

  // The network and the clock.
  void receive(Clock::time_point now, const Message& message);
  void tick(Clock::time_point now);
  /// For observers; said with one state in each heartbeat, together with why there is no grant.
  void set_report(SourceReport report) { report_ = std::move(report); }
  bool wants_report(Clock::time_point now) const noexcept { return now >= next_report_; }
  Clock::time_point next_wakeup() const noexcept;
  std::vector<Message> take_outbox();
  bool has_outbox() const noexcept { return !outbox_.empty(); }
  void leave(Clock::time_point now);

  /// True once after contact was lost: the connection should be made anew.
  bool take_reconnect() noexcept { return std::exchange(reconnect_, false); }

  // Views.
  const Member& member() const noexcept { return me_; }
  bool joined() const noexcept { return joined_; }
  const Run& run() const noexcept { return run_; }
  std::uint64_t next_point() const noexcept { return next_point_; }
  /// Newest point whose capture began here and has not failed; 0 if there is none.
  std::uint64_t last_captured() const noexcept { return last_captured_; }
  /// The last captured point turned out void elsewhere.
  void forget_captured() noexcept { last_captured_ = 0; }
  bool capturing() const noexcept { return capture_.has_value(); }
  std::uint64_t published() const noexcept { return orders_.published; }
  std::uint64_t committed() const noexcept { return orders_.committed; }
  bool granted_now() const noexcept;   ///< at_point() would capture
  std::string blocked() const;         ///< why there is no grant
  std::optional<Refused> refused() const { return refused_; }
  std::uint64_t dropped() const noexcept { return dropped_; }

 private:
  struct Capture {
    std::uint64_t grant = 0;
    std::uint64_t point = 0;
    std::uint32_t slot = 0;
    bool cancelled = false;
  };

  void void_grant(const std::string& why);
  void retake_point(Clock::time_point now);
  void pass_point(Clock::time_point now);
  void on_welcome(Clock::time_point now, const Message& message, const Welcome& welcome);
  void begin_run(const Run& run, std::uint64_t next_point);
  void on_orders(Clock::time_point now, const SourceOrders& orders);
  void rejoin(Clock::time_point now);
  void say_hello(Clock::time_point now);
  void send_state(Clock::time_point now);
  void send(Body body);
  void refresh_reservation(Clock::time_point now);

  SourceConfig config_;
  SlotBook& slots_;
  Member me_;
  Run run_;
  bool joined_ = false;
  bool left_ = false;
  bool reconnect_ = false;
  bool started_ = false;  ///< has passed a point or been told where the others are
  std::uint64_t next_point_ = 1;
  std::uint64_t coalesced_in_row_ = 0;
  bool waiting_ = false;
  bool ready_ = false;
  bool grant_used_ = false;  ///< the grant of orders_ was captured or voided here
  bool grant_void_ = false;
  std::string void_reason_;
  SourceOrders orders_;
  std::uint64_t sequence_ = 0;
  std::optional<Capture> capture_;
  std::optional<Sealed> unacknowledged_;
  std::uint64_t last_captured_ = 0;        ///< the point; 0 after a failed capture
  std::uint64_t last_captured_grant_ = 0;
  std::optional<FlushRequest> flush_;
  std::uint64_t flush_ordinal_ = 0;
  std::optional<Verdict> verdict_;
  std::optional<Refused> refused_;
  std::uint64_t dropped_ = 0;
  Clock::time_point last_heard_;
  Clock::time_point last_tick_;
  Clock::time_point next_send_;
  Clock::time_point next_resend_;  ///< of unacknowledged_ and flush_
  std::optional<SourceReport> report_;
  Clock::time_point next_report_;
  std::vector<Message> outbox_;
};

/// SourceState.void_reason of a rank that was past the granted point: the next grant looks further
/// ahead.
inline constexpr const char* kMissed = "missed";

}  // namespace weightcast::protocol
