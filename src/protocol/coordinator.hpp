// The one that decides: who is a member, which publish point becomes a version, when a version is
// committed, and who is evicted. It carries no weights.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "protocol/message.hpp"

namespace weightcast::protocol {

/// A connection, as the loop numbers it.
using Peer = std::uint64_t;

struct CoordinatorConfig {
  Run run;
  std::uint32_t world_size = 1;
  std::string launch;
  std::string policy;
  Duration heartbeat = std::chrono::milliseconds(100);
  Duration member_timeout = std::chrono::seconds(2);
  Duration attempt_timeout = std::chrono::seconds(10);  ///< to stage; and again to apply
  Duration catch_up_backoff = std::chrono::milliseconds(100);  ///< after a failure; doubles, to 5 s
  std::uint32_t compare_every = 64;                     ///< versions; 0: never
  std::uint32_t min_receivers = 0;                      ///< what a verdict waits for
  bool p2p = false;               ///< each receiver at its own pace, instead of rounds
  std::uint32_t slots = 4;        ///< of each source: how many versions may be wanted at once
  std::uint32_t max_dirty = 0;    ///< receivers in place that may be without a policy at once; 0:
                                  ///< half of them, at least one
  std::uint32_t fan_out = 2;      ///< receivers over the network that one holder serves at once
  std::string clock;              ///< identity of this host's monotonic clock
};

struct Outgoing {
  Peer peer = 0;
  Message message;
};

/// What happened, for logs and status; the machine itself writes none.
struct Note {
  bool warning = false;
  std::string text;  ///< as base::log_text() makes it
};

/// Sans-I/O: events in, messages out. Not thread safe.
///
/// Broadcast: a round brings one version to a set of receivers that is frozen when it begins and can only
/// shrink. Each receiver has at most one assignment at a time, numbered by an attempt that only
/// rises: a part of the round, or a catch-up of its own.
///
/// P2p: there are no rounds. What is sealed is committed, and every receiver catches up alone: over
/// the network from the sources or from an engine that serves that version already, so that a holder
/// never feeds more than `fan_out` at once.
class Coordinator {
 public:
  Coordinator(CoordinatorConfig config, Clock::time_point now);

  void receive(Clock::time_point now, Peer peer, const Message& message);
  void tick(Clock::time_point now);
  /// Tells all members that this run ends, so that they look for the next one at once.
  void leave();
  Clock::time_point next_wakeup() const noexcept;
  std::vector<Outgoing> take_outbox() { return std::exchange(outbox_, {}); }
  std::vector<Note> take_notes() { return std::exchange(notes_, {}); }

  const Run& run() const noexcept { return config_.run; }
  std::uint64_t published() const noexcept { return published_; }
  std::uint64_t committed() const noexcept { return committed_; }
  /// A member has seen a newer run: this one gives no more grants.
  bool superseded() const noexcept { return superseded_; }

  struct ReceiverView {
    std::string name;
    Version serving;
    std::string state;  ///< "active", "joining", "lagging"
  };
  std::vector<ReceiverView> receivers() const;
  std::uint32_t sources_joined() const noexcept;
  /// The whole picture, for observers. What this machine does not know (job, listening) is left
  /// empty. Costs some microseconds a member, and changes nothing.
  JobStatus picture(Clock::time_point now) const;
  bool round_open() const noexcept { return round_.has_value(); }

  struct Counters {
    std::uint64_t commits = 0;
    std::uint64_t rounds_aborted = 0;
    std::uint64_t receivers_evicted = 0;
    std::uint64_t sources_evicted = 0;
    std::uint64_t rejoins = 0;
    std::uint64_t demotions = 0;   ///< failed or late in a round, catching up alone
    std::uint64_t catch_ups = 0;   ///< ended well
    std::uint64_t grants = 0;
    std::uint64_t grants_void = 0;
    std::uint64_t refused = 0;
    std::uint64_t dropped = 0;
    std::uint64_t drifted = 0;
    std::uint64_t announced = 0;   ///< captures that receivers were told of before their end
    std::uint64_t relayed = 0;     ///< catch-ups that another engine was asked for
    std::int64_t last_apply_ns = 0;  ///< from the last rank's publish point to the last APPLIED
    std::uint64_t last_applied = 0;  ///< the version whose round ended last, or that all serve (p2p)
    std::int64_t last_captured_at_ns = 0;  ///< that one's publish point; 0: not known
  };
  const Counters& counters() const noexcept { return counters_; }

 private:
  struct SourceMember {
    Peer peer = 0;
    Member member;
    Clock::time_point last_heard;
    SourceState state;
    std::uint64_t sequence = 0;        ///< of the orders sent
    std::uint64_t sealed_ordinal = 0;
    bool state_known = false;
    bool same_clock = true;
    std::optional<FlushRequest> flush;
    std::string host;
    std::uint64_t pid = 0;
    SourceReport report;
  };
  /// How long its versions took, as it was heard here; for observers.
  struct Times {
    Clock::time_point began;      ///< of the present or last attempt
    Clock::time_point committed;
    bool is_staged = false;
    bool is_committed = false;
    Duration stage{0};
    Duration turn{0};             ///< from the commit to the switch
    Duration apply{0};
  };
  /// kQueued: committed, but in place, and as many as may be are dirty already.
  enum class Stage { kPreparing, kStaged, kQueued, kCommitting };
  struct Assignment {
    std::uint64_t attempt = 0;
    std::uint64_t number = 0;
    bool in_round = false;
    Stage stage = Stage::kPreparing;
    std::uint32_t failures = 0;
    Clock::time_point prepare_sent;
    Clock::time_point deadline;
    Clock::time_point last_deadline;  ///< progress puts the deadline off, but not beyond this
    std::uint64_t progress = 0;
    std::string relay;             ///< name of the engine that it is read from; empty: the sources
    std::string relay_endpoint;
  };
  struct ReceiverMember {
    Peer peer = 0;
    Member member;
    Clock::time_point last_heard;
    ReceiverState state;
    std::uint64_t sequence = 0;
    std::optional<Assignment> assignment;
    std::uint64_t last_attempt = 0;  ///< orders of the newest assignment go on after its end
    Order last_order = Order::kNone;
    bool lagging = false;            ///< failed or was too late in the round of lag_number; out of
                                     ///< further ones until it serves that or a later version
    std::uint64_t lag_number = 0;
    std::uint32_t catch_up_failures = 0;
    bool in_place = false;
    bool over_network = false;
    bool same_clock = true;
    std::string relay_endpoint;    ///< empty: it serves nobody
    std::string bad_relay;         ///< the last one that failed it
    std::uint64_t joined_after = 0;  ///< newest committed version when it was welcome
    Clock::time_point retry_at;
    std::string failure;
    std::string host;
    std::uint64_t pid = 0;
    ReceiverReport report;
    Times times;
  };
  struct Gone {
    std::string name;
    std::string why;
    Clock::time_point at;
  };
  struct Grant {
    std::uint64_t ordinal = 0;
    std::uint64_t point = 0;
    bool open = false;
    bool compare = false;
    std::map<std::uint32_t, Sealed> sealed;
    std::map<std::uint32_t, plan::Share> begun;  ///< until all have, and receivers were told
  };
  struct VersionRecord {
    plan::Manifest manifest;
    std::int64_t captured_at_ns = 0;  ///< by this host's clock
  };
  struct Round {
    std::uint64_t number = 0;
    bool committed = false;
    Clock::time_point began;
    std::int64_t apply_ns = 0;  ///< the slowest receiver's so far
    std::set<std::string> lost;
  };

  // Joining and leaving (coordinator_members.cpp).
  void on_hello(Clock::time_point now, Peer peer, const Message& message, const Hello& hello);
  void welcome_source(Clock::time_point now, Peer peer, const Member& member, const Hello& hello);
  void welcome_receiver(Clock::time_point now, Peer peer, const Member& member,
                        const Hello& hello);
  void know(const Member& member);
  void refuse(Peer peer, const Member& member, Refusal reason, std::string text);
  void evict_silent(Clock::time_point now);
  void drop_source(Clock::time_point now, std::uint32_t rank, const char* why);
  void drop_receiver(Clock::time_point now, std::string name, const char* why, bool lost);

  // From publish points to versions.
  void on_source_state(Clock::time_point now, SourceMember& source, const SourceState& state);
  void on_sealed(Clock::time_point now, std::uint32_t rank, const Sealed& sealed);
  void on_capturing(std::uint32_t rank, const Capturing& capturing);
  void finish_grant(Clock::time_point now);
  void void_grant(const std::string& why);
  void consider_grant(Clock::time_point now);
  bool compare_ranks();
  std::uint64_t furthest_point() const noexcept;

  // From versions to receivers (coordinator_rounds.cpp).
  void on_receiver_state(Clock::time_point now, ReceiverMember& receiver,
                         const ReceiverState& state);
  void consider_round(Clock::time_point now);
  void consider_commit(Clock::time_point now);
  void consider_round_end(Clock::time_point now);
  void abort_round(Clock::time_point now, const char* why);
  void consider_catch_ups(Clock::time_point now);
  void check_deadlines(Clock::time_point now);
  void assign(Clock::time_point now, ReceiverMember& receiver, std::uint64_t number, bool in_round,
              const ReceiverMember* relay = nullptr);
  void end_assignment(ReceiverMember& receiver, Order order);
  void demote(Clock::time_point now, ReceiverMember& receiver, const std::string& why);
  void failed(Clock::time_point now, ReceiverMember& receiver, const std::string& why);
  void send_prepare(Clock::time_point now, ReceiverMember& receiver);
  void note_progress(Clock::time_point now, ReceiverMember& receiver) const;
  std::int64_t applied_at(Clock::time_point now, const ReceiverMember& receiver) const;
  void let_switch(Clock::time_point now, ReceiverMember& receiver);
  void drop_overtaken_queue();
  void let_in_place_go(Clock::time_point now);
  bool on_its_way(const FlushRequest& flush) const;
  void fix_verdict();
  void answer_flushes();
  void forget_versions();
  std::vector<std::uint64_t> points_to_keep() const;

  // Each at its own pace (coordinator_p2p.cpp).
  struct Holder {
    bool found = false;
    const ReceiverMember* relay = nullptr;  ///< null: the sources
  };
  void consider_paces(Clock::time_point now);
  Holder choose_holder(const ReceiverMember& receiver) const;
  bool may_be_wanted(std::uint64_t number) const;
  bool is_relay_of(const ReceiverMember& receiver, std::uint64_t number) const;
  void note_lost(const std::string& name);
  void note_applied(std::uint64_t number);
  void note_spread();
  bool answer_from_paces(const FlushRequest& flush, Verdict& answer);

  // For observers (coordinator_status.cpp).
  JobStatus::Trainer show(Clock::time_point now, std::uint32_t rank,
                          const SourceMember& source) const;
  JobStatus::Engine show(Clock::time_point now, const ReceiverMember& receiver) const;
  EngineState state_of(const ReceiverMember& receiver) const;
  std::string waiting_for() const;
  static void time_staged(Clock::time_point now, ReceiverMember& receiver);
  static void time_committed(Clock::time_point now, ReceiverMember& receiver);
  static void time_applied(Clock::time_point now, ReceiverMember& receiver, std::int64_t apply_ns);
  void remember(Clock::time_point now, const std::string& name, const char* why);

  void settle(Clock::time_point now);
  void broadcast_orders(Clock::time_point now);
  void send_orders(SourceMember& source);
  void send_orders(ReceiverMember& receiver);
  void send(Peer peer, const Member& member, Body body);
  void note(bool warning, std::string_view event, base::LogFields fields);

  CoordinatorConfig config_;
  std::map<std::uint32_t, SourceMember> sources_;
  std::map<std::string, ReceiverMember> receivers_;
  std::optional<Grant> grant_;
  std::uint64_t grant_ordinal_ = 0;
  std::uint64_t lookahead_ = 1;
  std::map<std::uint64_t, VersionRecord> versions_;
  std::optional<std::uint64_t> pending_;  ///< sealed, its round has not begun
  std::optional<Round> round_;
  std::uint64_t published_ = 0;
  std::uint64_t committed_ = 0;
  std::uint64_t orphaned_ = 0;      ///< up to here a share is missing: its process was replaced
  std::uint64_t attempts_ = 0;
  std::uint64_t furthest_ = 1;  ///< greatest next_point ever heard
  bool superseded_ = false;
  std::uint64_t spread_noted_ = 0;  ///< p2p: the newest version that every receiver was seen to serve
  std::map<std::string, std::uint64_t> lost_;  ///< p2p: by name, what was newest when it was lost
  std::optional<Verdict> verdict_;  ///< of the newest version whose round has ended
  bool verdict_fixed_ = false;      ///< somebody was told
  bool changed_ = false;            ///< orders have to be sent
  std::deque<Gone> gone_;           ///< newest first
  std::map<std::pair<Role, std::string>, std::uint64_t> known_;  ///< newest incarnation that was welcome, by name
  /// By rank, the first that was welcomed; other processes are told where the others are.
  std::map<std::uint32_t, std::uint64_t> first_incarnation_;
  Counters counters_;
  Clock::time_point last_tick_;
  Clock::time_point next_beat_;
  std::vector<Outgoing> outbox_;
  std::vector<Note> notes_;
};

}  // namespace weightcast::protocol
