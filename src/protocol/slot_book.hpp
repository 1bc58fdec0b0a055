// The slot manager: which slot of a source is free, being written, or holds a sealed version.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace weightcast::protocol {

/// The exclusive locks of a source's slots (staging::Slab; modelled memory in the simulation).
class SlotLocks {
 public:
  virtual ~SlotLocks() = default;
  /// Without waiting; false while a reader holds the slot.
  virtual bool try_lock(std::uint32_t slot) = 0;
  virtual void unlock(std::uint32_t slot) = 0;
};

/// Pure bookkeeping; not thread safe. Invariant: a slot is exclusively locked exactly while it is
/// reserved, being written or in quarantine; at most one is reserved.
class SlotBook {
 public:
  SlotBook(std::uint32_t slots, SlotLocks& locks);

  /// Holds one free slot locked for the next capture. @return whether one is held now
  bool reserve();
  bool reserved() const noexcept;

  /// The reserved slot begins to be written for `grant`. Precondition: reserved().
  std::uint32_t begin_write(std::uint64_t grant);

  /// The slot's contents are sealed as `point`; readers may come.
  void seal(std::uint32_t slot, std::uint64_t point);

  /// The write is over and its contents are worth nothing.
  void abandon(std::uint32_t slot);

  /// Frees sealed slots for which `needed(grant, point)` is false.
  void release_unless(const std::function<bool(std::uint64_t grant, std::uint64_t point)>& needed);

  /// The slot that is being written, if any.
  std::optional<std::uint32_t> writing() const noexcept;
  std::uint32_t count_sealed() const noexcept;
  std::uint32_t size() const noexcept { return static_cast<std::uint32_t>(slots_.size()); }

 private:
  enum class Use { kFree, kReserved, kWriting, kSealed };
  struct Slot {
    Use use = Use::kFree;
    std::uint64_t grant = 0;
    std::uint64_t point = 0;
  };
  std::vector<Slot> slots_;
  SlotLocks& locks_;
};

}  // namespace weightcast::protocol
