// Names of shared-memory objects:
//   weightcast.<uid>.<job>.<policy>.<run started_us>-<tie>.r<rank>.<incarnation>.s<slot>
//   weightcast.<uid>.<job>.<policy>.<run started_us>-<tie>.r<rank>.<incarnation>.anchor
//   weightcast.<uid>.<job>.<policy>.<engine's start us>-<tie>.r0.<incarnation>.board
// A slab has one anchor, locked by its owner for as long as it lives: by it the living are told
// from the dead. A board (bucket_board.hpp) is locked by its engine, and is all that is there of it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "staging/slab.hpp"

namespace weightcast::staging {

/// Where glibc keeps POSIX shared-memory objects.
inline constexpr const char* kShmDirectory = "/dev/shm";

/// More slots than this are no sensible configuration, and no name of ours.
inline constexpr std::uint32_t kMaxSlots = 1024;

/// A name taken apart.
struct ObjectName {
  uid_t uid = 0;
  ObjectOwner owner;
  std::optional<std::uint32_t> slot;  ///< empty for the anchor, and for a board
  bool is_board = false;
};

/// True for 1 to 64 characters of [A-Za-z0-9_-], which job and policy must be.
bool is_name_word(std::string_view word) noexcept;

/// All that the names of one slab of this user begin with, without the last dot.
std::string owner_prefix(const ObjectOwner& owner);
std::string slot_name(const std::string& prefix, std::uint32_t slot);
std::string anchor_name(const std::string& prefix);
std::string board_name(const std::string& prefix);

/// The prefix of a name; empty where there is no dot.
std::string_view prefix_of(std::string_view name) noexcept;

/// Strict: nothing but what the functions above write is accepted.
std::optional<ObjectName> parse_object_name(std::string_view name);

}  // namespace weightcast::staging
