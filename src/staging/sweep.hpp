// Removing the shared-memory objects that dead runs of this user left behind.
#pragma once

#include <cstdint>
#include <string>

#include <weightcast/types.hpp>

namespace weightcast::staging {

struct SweepReport {
  std::uint32_t removed = 0;  ///< objects unlinked
  std::uint32_t held = 0;     ///< objects of dead owners that a reader still holds
  std::uint32_t alive = 0;    ///< objects whose owner lives
};

/// Unlinks every object of this user (and of `job`, unless it is empty) whose owner is dead and
/// that nobody holds a lock on. Waits for at most 20 ms, for another sweep. Safe against a concurrent sweep, reader or owner.
SweepReport sweep(const std::string& job);

}  // namespace weightcast::staging
