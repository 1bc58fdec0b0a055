// Who joins which NCCL communicator, who sends which bucket through it, and in which order: the same
// answer on every member from the same facts.
//
// A host takes part by few GPUs. What its other engines want they get from those inside the host.
//
// Broadcast: up to max_communicators stripes, each a communicator of one GPU of every receiving host
// and of some (or, where there are fewer hosts than stripes, one) of the sending hosts. Within a
// stripe the root goes round its senders: a host's leader sends the shares of all sources of that
// host, whose shared memory it reads. Buckets go round the stripes.
// p2p: two-party communicators of one GPU of a sending and one of a receiving host, in waves: within
// a wave a GPU is in one pair at most, so that waves are a window that a GPU moves through.
//
// All operations stand in one order. A GPU has one under way at a time and takes its own in that
// order, so the first one that is not over has all of its GPUs at it: none can wait for another in
// a circle.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include <weightcast/status.hpp>

namespace weightcast::plan {

struct NcclSource {
  std::uint32_t rank = 0;
  std::string host;
  std::string device;  ///< identity, as in DeviceProperties; where it joins communicators
  std::uint64_t payload_bytes = 0;
};

struct NcclReceiver {
  std::string name;
  std::string host;
  std::string device;
};

enum class NcclMode { kBroadcast, kP2p };

struct NcclFacts {
  std::vector<NcclSource> sources;      ///< in any order; ranks differ
  std::vector<NcclReceiver> receivers;  ///< in any order; names differ
  NcclMode mode = NcclMode::kBroadcast;
  std::uint64_t bucket_bytes = std::uint64_t{64} << 20;  ///< a multiple of kAlignment
  std::uint32_t max_communicators = 4;                   ///< that a GPU is in at a time
  std::uint32_t buckets_in_memory = 2;                   ///< of each GPU that takes part
  /// Every GPU counts as a host of its own, so that bytes go through NCCL inside of hosts, too.
  bool within_hosts = false;
};

/// A part of a source's payload that moves as one unit.
struct NcclBucket {
  std::uint32_t source = 0;  ///< index into NcclPlan::sources
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool operator==(const NcclBucket&) const = default;
};

/// Who can be in a communicator: `index` is one into the plan's sources or receivers.
struct NcclMember {
  bool is_source = false;
  std::uint32_t index = 0;
  auto operator<=>(const NcclMember&) const = default;
};

/// A communicator. NCCL's ranks are the indexes of `members`, senders first.
struct NcclGroup {
  std::vector<NcclMember> members;
  std::uint32_t wave = 0;  ///< of p2p: not joined before the one max_communicators waves earlier is
                           ///< left; 0 for all of a broadcast
  bool operator==(const NcclGroup&) const = default;
};

inline constexpr std::uint32_t kToAll = 0xffffffff;

struct NcclOp {
  std::uint32_t bucket = 0;
  std::uint32_t group = 0;
  std::uint32_t from = 0;     ///< NCCL's rank in the group
  std::uint32_t to = kToAll;  ///< the same; kToAll: a broadcast
  bool operator==(const NcclOp&) const = default;
};

/// What comes through a group reaches a receiver by `leader`, a receiver of its host (itself: over the
/// wire; else from there, inside the host).
struct NcclRoute {
  std::uint32_t group = 0;
  std::uint32_t leader = 0;
  bool operator==(const NcclRoute&) const = default;
};

struct NcclReceiverPlan {
  std::vector<NcclRoute> routes;  ///< by group; empty: nothing reaches it by NCCL
  std::string why_not;            ///< why that is so
  bool operator==(const NcclReceiverPlan&) const = default;
};

struct NcclPlan {
  std::vector<NcclSource> sources;      ///< by rank
  std::vector<NcclReceiver> receivers;  ///< by name
  std::vector<NcclBucket> buckets;
  std::vector<NcclGroup> groups;
  std::vector<NcclOp> ops;                 ///< in the order in which all GPUs take them
  std::vector<NcclReceiverPlan> by_receiver;
  std::uint64_t registered_bytes = 0;  ///< device memory for buckets, of each GPU that takes part
};

/// Pure. Time: operations, plus members times the logarithm of their number.
/// @return kInvalid for facts that contradict themselves: a rank or name twice, no device or host
///   said, bucket_bytes that is no multiple of kAlignment, bounds of 0
Result<NcclPlan> plan_nccl(const NcclFacts& facts);

/// Indexes into plan.ops of those that a member takes part in, in order. A broadcast's senders take
/// part in each other's.
std::vector<std::uint32_t> ops_of(const NcclPlan& plan, const NcclMember& member);

/// A fingerprint of all that members have to agree on (FNV-1a, 64 bits).
std::uint64_t fingerprint(const NcclPlan& plan);

}  // namespace weightcast::plan
