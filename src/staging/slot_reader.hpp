// A slot as a reader sees it: mapped once, locked while it is read or served from.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <weightcast/types.hpp>

namespace weightcast::staging {

/// A shared lock on one version in a slot. While it lives, the slot is not overwritten. The kernel
/// keeps the lock of a stopped process and drops that of a dead one. Movable; released once, by the
/// destructor.
class SlotLock {
 public:
  SlotLock() noexcept = default;
  SlotLock(SlotLock&& other) noexcept;
  SlotLock& operator=(SlotLock&& other) noexcept;
  ~SlotLock();
  bool held() const noexcept { return fd_ >= 0; }

 private:
  friend class SlotReader;
  explicit SlotLock(int fd) noexcept;
  void release() noexcept;
  int fd_ = -1;        ///< borrowed from the SlotReader, which outlives the lock
  pid_t process_ = 0;  ///< that took it; a forked child does not end its parent's lock
};

/// How a reader sees the payload.
enum class SlotMapping {
  kPrivate,         ///< what this process writes stays its own (copy on write)
  kShared,          ///< the owner's pages, read-only: to be registered with a device where it
                    ///< registers such memory (DeviceProperties::registers_read_only)
  kSharedWritable,  ///< the owner's pages, writable because registration elsewhere asks for that;
                    ///< nobody writes to them
  kNone             ///< not at all: header and lock only
};

/// One slot of somebody else's slab. Where its payload lies in a device's memory there is nothing to
/// map, and the slot is its header and its lock.
/// Thread safety: one thread at a time, but written(), which any may call; the bytes may be read by
/// many.
class SlotReader {
 public:
  /// Opens and maps `object` whole, and touches it for reading, so that later versions in the same
  /// slot cost no page faults. Nothing in it may be believed before lock() succeeded.
  /// @return kNotFound where the object is gone, kDenied where it is not this user's, kMismatch
  ///   where it is no slot of this format (magic, format version, size)
  static Result<std::unique_ptr<SlotReader>> open(const std::string& object,
                                                  SlotMapping mapping = SlotMapping::kPrivate);
  ~SlotReader();
  SlotReader(const SlotReader&) = delete;
  SlotReader& operator=(const SlotReader&) = delete;

  /// Takes the shared lock without waiting, then checks that the slot is sealed with exactly this
  /// version, generation and payload size; drops pages that this process wrote to, so that the
  /// mapping shows the slot's bytes. One lock at a time.
  /// @return kStale where the slot is being written or holds something else, kInternal where the
  ///   kernel does not drop those pages
  Result<SlotLock> lock(const Version& version, std::uint64_t generation,
                        std::uint64_t payload_bytes);

  /// How many bytes from the payload's start are final, read without a lock: to read behind the
  /// writer. Such bytes count only if lock() for the same generation succeeds later, which says that
  /// nothing was written over them meanwhile.
  /// @return nothing where the slot is not at that generation (any more); payload_bytes where it is
  ///   sealed. Does not block.
  std::optional<std::uint64_t> written(std::uint64_t generation) const noexcept;

  /// Whether the payload is in this object; false: in a device's memory (plan::Share::device).
  bool payload_here() const noexcept;

  /// Whether the object has been unlinked: nothing new will come in it, but what a lock holds
  /// stays.
  bool gone() const noexcept;

  /// The payload; empty where it is not mapped. Valid as long as this object lives; meaningful only
  /// under a lock, or up to written(). With kPrivate, writes stay this process's own; with the others
  /// there must be none.
  std::span<std::byte> payload() noexcept;

 private:
  struct Impl;
  explicit SlotReader(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::staging
