// What members and coordinator say to each other. Plain values; wire.hpp turns them into Protocol
// Buffers and back, and checks all that a peer could get wrong.
//
// Messages carry state rather than steps wherever that is possible: a lost one is made good by the
// next, a repeated one changes nothing, an old one is recognised by its ordinal. Only Sealed and
// Prepare carry bulk, and they are sent again until the state of the other side shows that they
// have arrived.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <weightcast/job_status.hpp>
#include <weightcast/types.hpp>

#include "base/digest.hpp"
#include "plan/manifest.hpp"

namespace weightcast::protocol {

/// Counted up by every change of a message's meaning; peers of another number are refused.
inline constexpr std::uint32_t kProtocolVersion = 4;

enum class Role : std::uint8_t { kSource = 1, kReceiver = 2 };

/// A process as the protocol knows it. An incarnation is one stay in the job: it rises at every
/// (re)join, so that what a former stay left behind is told from the present one.
struct Member {
  Role role = Role::kReceiver;
  std::string name;  ///< receivers: unique in the job; sources: "rank-<n>"
  std::uint64_t incarnation = 0;
  auto operator<=>(const Member&) const = default;
};

// ---- member -> coordinator ------------------------------------------------------------------

/// What a member tells of itself for others to look at; nothing is decided by it.
struct SourceReport {
  std::string blocked;            ///< as in JobStatus::Trainer, like all that follows
  std::string staging;
  std::string transport;
  std::string transport_reason;
  std::uint32_t slots = 0;
  std::uint64_t slot_bytes = 0;
  std::uint64_t captured = 0;
  std::uint64_t coalesced = 0;
  std::uint64_t voided = 0;
  std::uint64_t sent_bytes = 0;
  std::int64_t last_capture_ns = 0;
  std::int64_t last_hook_ns = 0;
  std::int64_t last_fence_ns = 0;
  bool operator==(const SourceReport&) const = default;
};

struct ReceiverReport {
  std::string activation;         ///< as in JobStatus::Engine, like all that follows
  std::string activation_reason;
  std::string transport;
  std::string transport_reason;
  std::uint64_t received_bytes = 0;
  std::uint32_t leases = 0;
  bool operator==(const ReceiverReport&) const = default;
};

/// Asks to join. Repeated until Welcome or Refused comes.
struct Hello {
  std::uint32_t rank = 0;        ///< sources only
  std::uint32_t world_size = 0;  ///< sources only
  std::string launch;            ///< sources only: which launch of the trainer job it belongs to
  std::string policy;
  Run highest_run;               ///< the newest run that this member has obeyed
  Version serving;               ///< receivers: what leases get now
  std::uint64_t next_point = 0;  ///< sources: as in SourceState; 0 for a process that just started
  bool in_place = false;         ///< receivers: bytes come after the commit (activation serial)
  bool over_network = false;     ///< receivers: bytes come over the network, and cost their holder
  std::string clock{};           ///< identity of the host whose monotonic clock its times are of
  std::string relay_endpoint{};  ///< receivers: where others may read what it serves; empty: nowhere
  std::string host{};            ///< the host's name, for people; empty: not known
  std::uint64_t pid = 0;         ///< on that host; 0: not known
  bool operator==(const Hello&) const = default;
};

/// A source's state; sent at every change and with every heartbeat.
struct SourceState {
  std::uint64_t sequence = 0;       ///< rises with each message of this incarnation
  std::uint64_t next_point = 1;     ///< the first publish point that it could still capture
  bool waiting = false;             ///< the trainer waits for a grant at next_point
  bool ready = false;               ///< a slot is locked and free for the next grant
  std::uint64_t grant_ordinal = 0;  ///< the newest grant that it has taken note of
  bool grant_void = false;          ///< it cannot or could not capture that grant's point
  std::string void_reason;          ///< "missed", "stall", "step failed", ...
  std::optional<SourceReport> report{};  ///< with one state in each heartbeat
  bool operator==(const SourceState&) const = default;
};

/// A share has been captured and sealed. Repeated until SourceOrders.sealed_ordinal shows it.
struct Sealed {
  std::uint64_t grant_ordinal = 0;
  std::uint64_t point = 0;
  std::uint64_t layout_fingerprint = 0;  ///< of the whole policy, equal on all ranks
  plan::Share share;
  bool has_policy_digest = false;        ///< where this point compares the ranks
  base::Digest policy_digest;            ///< over the whole policy as this rank holds it
  std::int64_t captured_at_ns = 0;       ///< monotonic time of the publish point on this rank
  bool operator==(const Sealed&) const = default;
};

/// A share is being captured: where it will lie, its digests not known yet. A hint, said once; what
/// comes of it shows Sealed, or SourceState.grant_void.
struct Capturing {
  std::uint64_t grant_ordinal = 0;
  std::uint64_t point = 0;
  plan::Share share;  ///< its digests are zero
  bool operator==(const Capturing&) const = default;
};

/// A receiver's state; sent at every change and with every heartbeat.
enum class Phase : std::uint8_t { kIdle = 0, kStaging = 1, kStaged = 2, kFailed = 3, kApplied = 4 };

struct ReceiverState {
  std::uint64_t sequence = 0;
  std::uint64_t attempt = 0;  ///< the newest attempt that it has taken note of; 0 none
  Phase phase = Phase::kIdle; ///< how far that attempt is
  std::string failure;        ///< why, in phase kFailed
  Version serving;            ///< what leases get now
  bool lagging = false;       ///< a lease is past its deadline
  std::int64_t applied_at_ns = 0;  ///< monotonic time when `serving` became it
  bool dirty = false;         ///< a version is coming in place: leases are refused
  std::uint64_t progress = 0; ///< bytes of the attempt's version that have been placed so far
  std::optional<ReceiverReport> report{};  ///< with one state in each heartbeat
  bool operator==(const ReceiverState&) const = default;
};

/// Asks for the verdict on the version of `point`, or on a later one.
struct FlushRequest {
  std::uint64_t ordinal = 0;        ///< counts this source's flushes
  std::uint64_t point = 0;
  std::uint64_t grant_ordinal = 0;  ///< the grant under which this source captured it
  bool operator==(const FlushRequest&) const = default;
};

/// Leaves on purpose.
struct Bye {
  bool operator==(const Bye&) const = default;
};

// ---- coordinator -> member ------------------------------------------------------------------

struct Welcome {
  /// Sources: 1 for a rank that counts its points by itself from the start of its launch; for one
  /// that replaces another, or comes from a former run, where the others are.
  std::uint64_t next_point = 1;
  bool operator==(const Welcome&) const = default;
};

enum class Refusal : std::uint8_t {
  kStale = 1,      ///< this incarnation is not (or no longer) a member: rejoin with a higher one
  kProtocol = 2,   ///< another protocol version
  kLaunch = 3,     ///< a source of another launch, rank or world size
  kPolicy = 4,     ///< another policy is published here
  kNameTaken = 5,  ///< a living member has this name
  kSuperseded = 6, ///< the member has seen a newer run than this coordinator's
  kRole = 7        ///< a member whose key is the other role's
};

struct Refused {
  Refusal reason = Refusal::kStale;
  std::string message;
  bool operator==(const Refused&) const = default;
};

/// What a source shall do; sent at every change and with every heartbeat.
struct SourceOrders {
  std::uint64_t sequence = 0;        ///< rises with each message to this incarnation
  std::uint64_t grant_ordinal = 0;   ///< 0: no grant yet
  std::uint64_t grant_point = 0;     ///< capture exactly there; kNextPoint: at the next one
  bool grant_open = false;           ///< false: that grant is void or completely sealed
  bool compare = false;              ///< this point compares the ranks' whole policies
  std::uint64_t sealed_ordinal = 0;  ///< the newest grant whose Sealed arrived from this source
  std::vector<std::uint64_t> keep;   ///< points whose slots are needed; others may be overwritten
  std::uint64_t published = 0;       ///< newest point that is sealed everywhere
  std::uint64_t committed = 0;       ///< newest point that is committed
  bool operator==(const SourceOrders&) const = default;
};
inline constexpr std::uint64_t kNextPoint = ~std::uint64_t{0};

/// Fetch this version, place it, verify it, and say kStaged.
struct Prepare {
  std::uint64_t attempt = 0;
  std::uint64_t number = 0;
  plan::Manifest manifest;
  std::string relay_name{};      ///< p2p: the engine to read it from; empty: the sources
  std::string relay{};           ///< that engine's endpoint
  bool operator==(const Prepare&) const = default;
};

/// A version is being captured by every source and may be read behind its writers. A hint, said once: the
/// version may never exist, and who does not read ahead, or did not hear of it, loses nothing.
struct Ahead {
  std::uint64_t number = 0;
  plan::Manifest manifest;  ///< its digests are zero
  bool operator==(const Ahead&) const = default;
};

/// What a receiver shall do with its attempt; sent at every change and with every heartbeat.
enum class Order : std::uint8_t { kNone = 0, kHold = 1, kCommit = 2, kAbort = 3 };

struct ReceiverOrders {
  std::uint64_t sequence = 0;
  std::uint64_t attempt = 0;
  Order order = Order::kNone;    ///< kHold: go on with (or wait for) Prepare
  std::uint64_t published = 0;   ///< newest version that the trainer has sealed
  std::uint64_t committed = 0;   ///< newest version that may be served
  bool operator==(const ReceiverOrders&) const = default;
};

/// The coordinator's one answer about a version, the same on every rank.
struct Verdict {
  std::uint64_t ordinal = 0;  ///< of the FlushRequest that it answers
  std::uint64_t number = 0;   ///< the version; 0: that point was void, publish again
  std::vector<std::string> applied;
  std::vector<std::string> lost;  ///< evicted, lagging or failed during its attempt
  std::uint32_t min_receivers = 0;
  bool operator==(const Verdict&) const = default;
};

// ---- observers ------------------------------------------------------------------------------

/// Asks what the coordinator knows. Who asks is no member: it speaks in the role of the key that it
/// has, with a name that nobody looks at, and may be left without an answer where many ask.
struct StatusRequest {
  std::uint64_t ordinal = 0;  ///< comes back with the answer
  bool operator==(const StatusRequest&) const = default;
};

struct StatusAnswer {
  std::uint64_t ordinal = 0;
  JobStatus status;
  bool operator==(const StatusAnswer&) const = default;
};

using Body = std::variant<Hello, SourceState, Sealed, ReceiverState, FlushRequest, Bye, Welcome,
                          Refused, SourceOrders, Prepare, ReceiverOrders, Verdict, Capturing, Ahead,
                          StatusRequest, StatusAnswer>;

/// Every message carries the run and the member's incarnation, whichever way it goes: what does
/// not fit the receiver's view of them is dropped and counted.
struct Message {
  Run run;        ///< the coordinator's; none in a Hello of a member that knows no run yet
  Member member;  ///< who sends it (to the coordinator) or whom it is for (from it)
  Body body;
  bool operator==(const Message&) const = default;
};

}  // namespace weightcast::protocol
