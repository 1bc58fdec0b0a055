// The few things that slabs, readers and sweeps do with a Boost.Interprocess object, with its
// exceptions turned into Status.
#pragma once

#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include <weightcast/types.hpp>

#include "base/errno_text.hpp"

namespace weightcast::staging {

using ShmObject = boost::interprocess::shared_memory_object;
using ShmRegion = boost::interprocess::mapped_region;
using ShmMode = boost::interprocess::mode_t;

using base::errno_text;

inline int descriptor(const ShmObject& object) noexcept {
  return object.get_mapping_handle().handle;
}

/// Creates an object with owner-only permissions and no bytes.
/// @return kExists, kDenied (not writable), kExhausted (descriptors, inodes)
Result<ShmObject> create_object(const std::string& name);

/// Creates an object and takes its exclusive lock. In between, a sweep may take it for a leftover: then
/// the object is gone or about to be, and it is made again.
Result<ShmObject> create_locked_object(const std::string& name);

/// Opens an object of this user. Does not follow links and does not open anything but regular
/// files.
/// @param mode read_only or read_write
/// @return kNotFound, kDenied (another user's, or no regular file), kExhausted (descriptors)
Result<ShmObject> open_object(const std::string& name, ShmMode mode);

/// Maps bytes of the object; kExhausted where the address space or the limit on it has no room.
Result<ShmRegion> map_object(const ShmObject& object, ShmMode mode, std::uint64_t offset,
                             std::uint64_t bytes);

/// Unlinks; false where it was not there.
bool unlink_object(const std::string& name) noexcept;

/// flock without waiting; false where somebody else's lock is in the way.
bool try_lock_exclusive(int fd) noexcept;
bool try_lock_shared(int fd) noexcept;
void unlock(int fd) noexcept;

/// False once the open object has been unlinked.
bool still_linked(int fd) noexcept;

}  // namespace weightcast::staging
