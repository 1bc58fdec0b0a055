// Removing the shared-memory objects that dead runs of this user left behind.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

namespace weightcast::staging {

/// What lies in /dev/shm of one slab.
struct SlabRemains {
  std::string prefix;              ///< what the names of its objects begin with
  bool is_alive = false;           ///< its owner lives
  bool is_board = false;           ///< an engine's; else a rank's
  std::uint32_t objects = 0;       ///< slots and anchor
  std::uint32_t held = 0;          ///< slots of a dead owner that a reader still holds
  std::uint64_t bytes = 0;         ///< that its slots take
  std::vector<std::string> free{};  ///< objects of a dead owner that nobody holds
};

/// Every slab of this user (and of `job`, unless it is empty), by the rules of sweep(), which would
/// remove what is in `free`. Removes nothing. Waits as sweep() does.
std::vector<SlabRemains> survey(const std::string& job);

struct SweepReport {
  std::uint32_t removed = 0;  ///< objects unlinked
  std::uint32_t held = 0;     ///< objects of dead owners that a reader still holds
  std::uint32_t alive = 0;    ///< objects whose owner lives
  std::vector<std::string> names{};  ///< of the objects unlinked
};

/// Unlinks every object of this user (and of `job`, unless it is empty) whose owner is dead and
/// that nobody holds a lock on. Waits for at most 20 ms, for another sweep. Safe against a concurrent sweep, reader or owner.
SweepReport sweep(const std::string& job);

}  // namespace weightcast::staging
