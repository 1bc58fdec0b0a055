// What torchrun tells its processes: who they are, and where rank 0 is.
#pragma once

#include <cstdint>

#include <weightcast/status.hpp>

#include "config/settings.hpp"

namespace weightcast::config {

inline constexpr std::uint64_t kMaxRanks = 1'000'000;

/// Sets rank, world_size and launch where torchrun's RANK, WORLD_SIZE and TORCHELASTIC_* are set.
/// @return kInvalid that names a variable, its value and what is allowed
Status take_rank(TrainerSettings& settings, Origins& origins);

/// Where the job that torchrun started spans nodes (LOCAL_WORLD_SIZE < WORLD_SIZE): rank 0 listens,
/// the other ranks of its node know that hosts other than theirs take part, and ranks of other nodes than rank 0's (GROUP_RANK > 0) look for it at MASTER_ADDR. Only where
/// nobody set `listen` or `coordinator`, and the rank is torchrun's. To be called last.
Status take_place(TrainerSettings& settings, Origins& origins);

/// Nothing: an engine's torchrun is not the trainer's.
inline Status take_rank(WorkerSettings&, Origins&) { return Status::ok(); }
inline Status take_place(WorkerSettings&, Origins&) { return Status::ok(); }

}  // namespace weightcast::config
