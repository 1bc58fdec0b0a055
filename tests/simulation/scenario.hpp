// What a seed stands for: how large the world is, how it is configured, and what goes wrong in it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include <weightcast/types.hpp>

#include "simulation/random.hpp"

namespace weightcast::simulation {

using namespace std::chrono_literals;

/// Bugs on the side of whoever drives the machines: publisher, subscriber, slab.
enum class DriverBug {
  kNone,
  kNoFence,             ///< the trainer steps on while its tensors are copied
  kLateBuffers,         ///< buffers are copied with the parameters, after forward has changed them
  kSkippedVerification, ///< what was placed is not compared with its digest
  kLockDroppedEarly,    ///< a view lets go of its slots while it serves
  kHeaderNotChecked,    ///< a slot is read whatever version is in it
  kSealedTooEarly,      ///< a share is sealed when its copy begins
  kEndlessFence,        ///< the fence waits for the copies however long they take
  kThirdImage,          ///< a version is staged although two are held
  kSwitchUnasked,       ///< what is staged is served without a commit
  kNoDrain,             ///< a version is copied over another that leases still read
  kAheadTrusted,        ///< what was read ahead of the seal, past the writer even, is not verified
  kLeasedWhileDirty     ///< leases are given while a version comes in place
};

/// How an engine takes versions in.
enum class Activation { kView, kFlip, kStaged, kSerial };

struct Scenario {
  std::uint64_t seed = 0;

  // The world.
  std::uint32_t ranks = 2;
  std::uint32_t engines = 3;
  std::uint32_t joiners = 1;       ///< engines that come later
  bool lockstep = true;            ///< ranks step together and restart together, as torchrun does
  std::uint32_t slots = 4;
  std::uint32_t words = 10;        ///< of parameters on each rank, besides two of buffers
  std::uint64_t flip_permille = 500;    ///< of engines; what the four leave views
  std::uint64_t staged_permille = 0;
  std::uint64_t serial_permille = 0;
  std::uint64_t network_permille = 0;   ///< of those that do not view: their bytes come by tcp

  // The configuration.
  bool p2p = false;
  std::uint32_t max_dirty = 1;
  std::uint32_t fan_out = 2;
  Duration heartbeat = 40ms;
  Duration member_timeout = 400ms;
  Duration attempt_timeout = 800ms;
  Duration stall = 12ms;
  Duration lease_deadline = 300ms;
  std::uint64_t max_coalesced = ~std::uint64_t{0};
  std::uint32_t compare_every = 4;
  std::uint32_t min_receivers = 0;
  std::uint64_t publish_every = 1; ///< steps
  std::uint64_t flush_every = 0;   ///< points; 0 never

  // The pace.
  Duration step = 24ms;
  Duration word_copy = 300us;
  Duration lease = 30ms;

  // What goes wrong, until faults_for has passed.
  Duration faults_for = 4s;
  std::uint64_t drop_permille = 0;
  std::uint64_t duplicate_permille = 0;
  std::uint64_t slow_permille = 0;
  Duration slow = 200ms;           ///< how late a slow message may be
  Duration delay = 2ms;            ///< how late any message may be
  Duration partition_every = 0ms;  ///< mean; 0 never
  Duration fault_every = 0ms;      ///< mean time between kills and stops; 0 never
  std::uint64_t phase_fault_permille = 0;
  std::uint64_t slow_copy_permille = 0;   ///< captures that outlast the stall
  std::uint64_t failed_step_permille = 0;
  std::uint64_t corruption_permille = 0;  ///< of words that a flip copies
  std::uint64_t long_lease_permille = 0;
  bool takeover = false;           ///< a new launch may start while an old rank 0 is only stopped
  bool lost_for_good = false;      ///< some killed engines never come back

  DriverBug bug = DriverBug::kNone;

  /// Nobody is killed, stopped, cut off or late: only messages are lost, doubled and reordered.
  bool only_losses() const noexcept {
    return partition_every == 0ms && fault_every == 0ms && phase_fault_permille == 0 &&
           corruption_permille == 0 && long_lease_permille == 0;
  }
  /// What a coordinator may ask the sources to keep: the version that is served, the one on its way,
  /// the one before (for who was catching up with it); and never more than they have room for.
  std::size_t most_kept() const noexcept { return std::max(3u, slots); }
  std::string text() const;
};

/// The scenario of a seed.
Scenario scenario_of(std::uint64_t seed);

}  // namespace weightcast::simulation
