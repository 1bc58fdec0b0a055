// The table of metrics: each one's name, kind, label and help. docs/metrics.md shows it.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace weightcast::metrics {

enum class Kind { kCounter, kGauge, kHistogram };

/// In the order of the table.
enum class Id : std::size_t {
  kBuild,
  kStageSeconds,
  kStageBytes,
  kPoints,
  kVoids,
  kPublishedVersion,
  kCommittedVersion,
  kBlocked,
  kConnected,
  kSlots,
  kSlotsHeld,
  kStreamWaits,
  kSentBytes,
  kRefusedMessages,
  kReceivers,
  kReceiversBehind,
  kCommits,
  kRoundsAborted,
  kGrants,
  kEvictions,
  kDemotions,
  kCatchUps,
  kRejoins,
  kRankDrifts,
  kApplied,
  kAttemptsFailed,
  kReceivedBytes,
  kRelayedBytes,
  kCorruptBuckets,
  kResentBuckets,
  kServingVersion,
  kKnownVersion,
  kAttached,
  kLagging,
  kDirty,
  kActivation,
  kLeases,
  kLeaseSeconds,
  kAcquireStaleness,
  kAcquiresRefused,
  kDroppedMessages,
  kSubscriberRejoins,
  kCount
};

/// Whom its samples are of, and so which labels they have besides their own.
enum class Of {
  kProcess,      ///< none
  kPublisher,    ///< trainer_job, policy, member ("rank-0")
  kCoordinator,  ///< as kPublisher, of rank 0 alone
  kSubscriber    ///< trainer_job, policy, member (the engine's name)
};

struct Family {
  Id id;
  const char* name;
  Kind kind;
  Of of;
  const char* label;  ///< its own; "": none
  const char* help;
};

extern const std::array<Family, static_cast<std::size_t>(Id::kCount)> kFamilies;

inline const Family& family(Id id) { return kFamilies[static_cast<std::size_t>(id)]; }
/// "counter", "gauge" or "histogram".
std::string_view kind_name(Kind kind) noexcept;

}  // namespace weightcast::metrics
