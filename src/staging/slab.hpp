// The shared memory of one source, as its owner sees it: a fixed number of slots, each a
// shared-memory object of its own with room for one version's share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <weightcast/types.hpp>

namespace weightcast::staging {

/// Who a shared-memory object belongs to; its name is made of these.
struct ObjectOwner {
  std::string job;     ///< [A-Za-z0-9_-], 1 to 64 characters
  std::string policy;  ///< as job
  Run run;
  std::uint32_t rank = 0;
  std::uint64_t incarnation = 0;
};

struct SlabOptions {
  ObjectOwner owner;
  std::uint32_t slots = 4;
  std::uint64_t slot_bytes = 0;  ///< payload capacity of each slot
  bool payload_in_slots = true;  ///< false: the payloads lie in a device's memory (device_slab.hpp);
                                 ///< a slot is its header and its lock
};

/// Owner of the slots. All memory is created with owner-only permissions, reserved and touched by
/// create(); nothing grows later. The objects are unlinked by the destructor, except those that a
/// reader still holds: these its last reader or the next start sweeps (sweep.hpp).
/// Thread safety: calls for one slot from one thread at a time; different slots are independent.
class Slab {
 public:
  /// @return kExhausted where /dev/shm (its size, MemAvailable, the cgroup's limit) has no room,
  ///   kDenied where it cannot be written, each with numbers and a remedy; kInvalid for bad options.
  /// Blocks for the time that touching slots * slot_bytes takes.
  static Result<std::unique_ptr<Slab>> create(const SlabOptions& options);
  ~Slab();
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::uint32_t slots() const noexcept;
  std::uint64_t slot_bytes() const noexcept;
  const std::string& object_name(std::uint32_t slot) const noexcept;
  /// Empty where the payloads lie elsewhere. Begins and ends at a page's border of the mapping.
  std::span<std::byte> payload(std::uint32_t slot) noexcept;

  /// Takes the slot's exclusive lock without waiting; false while any reader holds it.
  bool try_lock(std::uint32_t slot) noexcept;
  /// Lets go of the exclusive lock.
  void unlock(std::uint32_t slot) noexcept;

  /// Marks the slot as being written and counts its generation up. Needs the exclusive lock.
  /// @return the new generation
  std::uint64_t begin_write(std::uint32_t slot) noexcept;
  /// Says that the payload's first `bytes` bytes are final for this generation: readers may take them
  /// before the slot is sealed (SlotReader::written). Call it after the bytes are there, and never
  /// with less than before. Any thread.
  void set_written(std::uint32_t slot, std::uint64_t bytes) noexcept;
  /// Marks the slot as holding `version` of the generation that begin_write gave. Needs the
  /// exclusive lock; after it the lock may be dropped and readers may come.
  void seal(std::uint32_t slot, const Version& version, std::uint64_t payload_bytes) noexcept;

 private:
  struct Impl;
  explicit Slab(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::staging
