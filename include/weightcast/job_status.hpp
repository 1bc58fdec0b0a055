// What a job's coordinator knows: who takes part, which version each has, and what is waited for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <weightcast/export.hpp>
#include <weightcast/status.hpp>
#include <weightcast/types.hpp>

namespace weightcast {

struct SubscriberOptions;

/// What an engine is doing. Where several hold, the last of them in this list counts.
enum class EngineState : std::uint8_t {
  kJoining = 1,     ///< has no version of this run yet, and none is coming
  kCurrent = 2,     ///< serves the newest committed version
  kBehind = 3,      ///< serves an older one; none is coming just now (its turn comes, or a retry)
  kInRound = 4,     ///< takes the newest version in, together with the others
  kCatchingUp = 5,  ///< takes a version in, alone
  kLagging = 6,     ///< failed or was too late in a round, or holds a lease past its deadline
  kDirty = 7        ///< a version is coming in place: it has nothing to serve until it is whole
};

/// "joining", "current", "behind", "in round", "catching up", "lagging", "dirty".
WEIGHTCAST_API const char* engine_state_name(EngineState state) noexcept;

/// The picture of one moment, as rank 0 of the trainer has it. What is told by members (all but
/// name, state and times of bringing) is at most one of their heartbeats old.
struct JobStatus {
  /// A trainer rank that is a member.
  struct Trainer {
    std::uint32_t rank = 0;
    std::string host;                ///< its host's name; empty: not known
    std::uint64_t pid = 0;           ///< on that host; 0: not known
    Duration silence{0};             ///< since it was last heard
    std::uint64_t next_point = 0;    ///< the first publish point that it could still capture
    std::string blocked;             ///< why it has no grant; empty: it has one
    std::string staging;             ///< where it captures to: "host" or "device"
    std::string transport;           ///< by which ways its bytes can be had: "shm", "shm and tcp"
    std::string transport_reason;
    std::uint32_t slots = 0;
    std::uint64_t slot_bytes = 0;    ///< room in each
    std::uint64_t captured = 0;      ///< points, so far
    std::uint64_t coalesced = 0;
    std::uint64_t voided = 0;
    std::uint64_t sent_bytes = 0;    ///< over tcp, so far
    Duration last_capture{0};        ///< from the last captured point to the end of its copies
    Duration last_hook{0};           ///< that this point took of the trainer's thread
    Duration last_fence{0};          ///< that the last fence took of it
    bool operator==(const Trainer&) const = default;
  };

  /// An engine that is a member.
  struct Engine {
    std::string name;
    std::string host;                ///< as above
    std::uint64_t pid = 0;
    EngineState state = EngineState::kJoining;
    Duration silence{0};
    Version serving;                 ///< what its leases get; none: nothing yet
    std::uint64_t staleness = 0;     ///< publish points from it to the newest sealed version; of
                                     ///< another run's: all points of this run
    std::uint64_t bringing = 0;      ///< number of the version that it takes in; 0: none
    std::uint64_t progress = 0;      ///< bytes of that one which have been placed
    std::string activation;          ///< how it takes versions in: "view", "flip", ...
    std::string activation_reason;
    std::string transport;           ///< of its last version: "shm", "tcp", "tcp from <engine>"
    std::string transport_reason;
    std::uint64_t received_bytes = 0;  ///< copied in, so far (view copies nothing)
    std::uint32_t leases = 0;        ///< held
    Duration last_stage{0};          ///< of its last version: from PREPARE to STAGED,
    Duration last_switch{0};         ///< from COMMIT to APPLIED,
    Duration last_apply{0};          ///< from the publish point to APPLIED; all as rank 0 heard it
    std::string trouble;             ///< why it lags or what failed last; empty after a success
    bool operator==(const Engine&) const = default;
  };

  /// One that was a member. The last few are remembered.
  struct Gone {
    std::string name;                ///< of a trainer rank: "rank-<n>"
    std::string why;                 ///< "silent" (evicted), "left", "replaced"
    Duration ago{0};
    bool operator==(const Gone&) const = default;
  };

  /// A version on its way to all engines together (mode broadcast).
  struct Round {
    std::uint64_t number = 0;
    bool committed = false;          ///< every engine has staged it: they switch now
    Duration age{0};
    std::uint32_t engines = 0;       ///< that still have a part in it
    std::uint32_t staged = 0;        ///< of these, have staged it
    bool operator==(const Round&) const = default;
  };

  std::string job;
  std::string policy;
  Run run;
  Mode mode = Mode::kBroadcast;
  std::string listening;             ///< "tcp://address:port" for other hosts; empty: it does not
  std::uint32_t world_size = 0;      ///< trainer ranks that belong to the job
  std::uint32_t min_receivers = 0;
  std::uint64_t published = 0;       ///< newest version sealed by every rank; 0: none yet
  std::uint64_t committed = 0;       ///< newest that engines may serve; 0: none yet
  std::optional<Round> round;
  std::string waiting_for;           ///< what has to happen before the next version comes
  std::uint64_t commits = 0;         ///< so far, of this run; as the next four
  std::uint64_t rounds_aborted = 0;
  std::uint64_t engines_evicted = 0;
  std::uint64_t points_void = 0;
  std::uint64_t refused = 0;         ///< members, messages and connections that were refused
  std::uint64_t last_applied = 0;    ///< the version that was applied last by all; 0: none yet
  Duration last_apply{0};            ///< of that one: from its publish point to the last APPLIED
  std::vector<Trainer> trainers;     ///< by rank
  std::vector<Engine> engines;       ///< by name
  std::uint32_t left_out = 0;        ///< members beyond the 1024 of each role that an answer has room for
  std::vector<Gone> gone;            ///< newest first
  bool operator==(const JobStatus&) const = default;
};

/// Whom to ask. Fields mean what they mean in SubscriberOptions.
struct JobStatusOptions {
  std::string job = "default";
  std::string policy = "policy";
  std::string directory{};
  std::string coordinator{};         ///< where set, it is asked over tcp and `keys` is needed
  std::string keys{};                ///< a folder with either role's secret key will do
};

/// The same place as an engine with these options would look at: configure() gives them.
WEIGHTCAST_API JobStatusOptions job_status_options(const SubscriberOptions& options);

/// Asks the coordinator, as an observer: that is no member, is never waited for, and is answered
/// only so often (some fifty times a second, all observers together). Makes no files.
/// Blocks until the answer or the deadline. Thread safety: any thread.
/// @return kNotFound where nobody publishes that (the message names what runs here instead);
///   kUnavailable or kDeadline where somebody should be there but does not answer (who, and what
///   may be wrong); kDenied for keys; kMismatch for a coordinator of another protocol version;
///   kInvalid for options
WEIGHTCAST_API Result<JobStatus> job_status(const JobStatusOptions& options, Deadline deadline);

}  // namespace weightcast
