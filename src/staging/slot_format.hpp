// What lies in a slot: one header page, then the payload (or none, where that is in the memory of a
// device and the slot is but its header and lock). Both ends run on one host, so words are
// in its byte order and the header has the size of its pages.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <type_traits>

#include <weightcast/types.hpp>

namespace weightcast::staging {

inline constexpr std::uint64_t kSlotMagic = 0x746f6c5374736377;  // "wcstSlot" in memory
inline constexpr std::uint64_t kSlotFormat = 2;

enum class SlotState : std::uint64_t { kEmpty = 0, kWriting = 1, kSealed = 2 };

/// The owner stores words through its mapping, under the exclusive lock; readers pread a copy under
/// the shared lock. The state goes to kWriting before any other word changes and to kSealed after
/// all have, so an owner that is killed in between leaves a slot that nobody accepts. `written` goes
/// to 0 before the generation changes: who sees one generation before and after it has that one's.
struct SlotHeader {
  std::uint64_t magic;  ///< written last at creation
  std::uint64_t format;
  std::uint64_t capacity;  ///< bytes of payload that fit
  std::uint64_t state;     ///< SlotState
  std::uint64_t generation;
  std::uint64_t run_started_us;
  std::uint64_t run_tie;
  std::uint64_t number;
  std::uint64_t payload_bytes;
  std::uint64_t written;  ///< bytes from the payload's start that are final for this generation
  std::uint64_t payload_here;  ///< 1: the payload follows in this object; 0: it lies in a device
};
static_assert(std::is_trivially_copyable_v<SlotHeader>);
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

inline std::size_t page_bytes() noexcept {
  static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  return bytes;
}

/// Offset of the payload.
inline std::size_t header_bytes() noexcept { return std::max<std::size_t>(4096, page_bytes()); }

/// Bytes of the payload's mapping: whole pages, at least one (an empty share is a share).
inline std::uint64_t mapped_bytes(std::uint64_t capacity) noexcept {
  const std::uint64_t page = page_bytes();
  return std::max((capacity + page - 1) / page * page, page);
}

/// Bytes of the whole object.
inline std::uint64_t object_bytes(std::uint64_t capacity, bool payload_here = true) noexcept {
  return header_bytes() + (payload_here ? mapped_bytes(capacity) : 0);
}

}  // namespace weightcast::staging
