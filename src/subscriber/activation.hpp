// Which activation a version is taken in by: the freest that the transport, the engine and the memory
// allow.
#pragma once

#include <cstdint>
#include <string>

#include <weightcast/subscriber.hpp>

#include "staging/memory_room.hpp"

namespace weightcast::subscriber {

/// Memory that versions may take in this process.
struct MemoryBudget {
  std::uint64_t bytes = 0;  ///< what versions have taken already included
  std::string source;       ///< for messages: "memory_budget", "what this machine has available", ...
};

/// The configured budget, or where that is less (or 0) what the machine and the cgroup still have,
/// of which a sixteenth stays free. Pure.
/// @param taken bytes that versions have taken already
MemoryBudget budget_of(std::uint64_t configured, const staging::MemoryRoom& room,
                       std::uint64_t taken);

struct ActivationNeeds {
  Activation wanted = Activation::kAuto;
  Activation least = Activation::kView;  ///< kAuto: freer ones were tried, and memory was refused
  std::string why_least;                 ///< why; empty where nothing was tried
  std::string why_no_view;               ///< why the version cannot be shown in place; empty: it can
  bool fixed_addresses = false;          ///< the applier wants them
  std::uint64_t image_bytes = 0;
  std::uint64_t bucket_bytes = 0;        ///< of buckets under way, all together
  MemoryBudget budget;
};

struct ActivationChoice {
  Activation activation = Activation::kView;
  std::uint64_t bytes = 0;  ///< of memory that it takes
  std::string reason;       ///< for logs and status
};

/// "view", "flip", ...
const char* activation_name(Activation activation) noexcept;

/// Bytes that an activation takes: none for view, two images for flip and staged (one is served, one
/// takes the next version in), one for serial; and the buckets under way.
std::uint64_t activation_bytes(Activation activation, std::uint64_t image_bytes,
                               std::uint64_t bucket_bytes) noexcept;

/// Pure. kAuto takes the first of view, flip, staged and serial that is eligible and fits; as flip
/// and staged cost the same, staged is for engines that want fixed addresses. Any other choice is
/// taken or refused, never replaced.
/// @return kExhausted with the bytes needed and those there; kInvalid for a choice that this engine
///   or version does not allow; each message says what to do
Result<ActivationChoice> choose_activation(const ActivationNeeds& needs);

}  // namespace weightcast::subscriber
