// What is done to the pages of a mapping.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace weightcast::staging {

/// Makes the pages of a shared mapping present and writable. Needs their memory to be reserved.
void touch_for_writing(std::span<std::byte> pages) noexcept;

/// Makes the pages of a private mapping present, still shared with the file: MAP_POPULATE or a
/// write would give the process copies of its own instead.
void touch_for_reading(std::span<std::byte> pages) noexcept;

/// Which pages count as private copies.
enum class PrivatePages {
  kFind,  ///< those that /proc/self/pagemap says are; where it does not say, all
  kAll
};

/// Drops the pages of a private file mapping that this process has written to, so that all of it
/// shows the file again. Where the kernel does not say which these are, all are dropped and read
/// in again.
/// @param pages whole pages
/// @return bytes dropped; nothing where the kernel refused, and the mapping may not be believed
std::optional<std::size_t> drop_private_copies(std::span<std::byte> pages,
                                               PrivatePages which = PrivatePages::kFind) noexcept;

}  // namespace weightcast::staging
