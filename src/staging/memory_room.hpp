// How much memory may still be reserved. Where /dev/shm is as large as the machine's memory, taking
// too much does not fail but wakes the kernel's OOM killer, so it is asked beforehand.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <weightcast/types.hpp>

namespace weightcast::staging {

/// Bytes; a member that cannot be found out is empty and does not limit.
struct MemoryRoom {
  std::optional<std::uint64_t> shm_total;      ///< size of the mount of /dev/shm
  std::optional<std::uint64_t> shm_free;       ///< of it, free for this user
  std::optional<std::uint64_t> mem_available;  ///< MemAvailable of /proc/meminfo
  std::optional<std::uint64_t> cgroup_free;    ///< the tightest limit of this process's cgroups
};

/// @param root where proc/, sys/ and dev/ lie: "" for the machine's own, a folder in tests
MemoryRoom measure_memory_room(const std::string& root = "");

/// Whether `bytes` more fit. A sixteenth of what the machine and the cgroup have available stays
/// free, for everybody else and for what this process goes on to allocate.
/// @return kExhausted with the numbers and the remedy
Status check_memory_room(const MemoryRoom& room, std::uint64_t bytes);

}  // namespace weightcast::staging
