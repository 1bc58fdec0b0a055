#include "protocol/slot_book.hpp"

#include "protocol/seeded_bug.hpp"

namespace weightcast::protocol {

SlotBook::SlotBook(std::uint32_t slots, SlotLocks& locks) : slots_(slots), locks_(locks) {}

bool SlotBook::reserved() const noexcept {
  for (const Slot& slot : slots_) {
    if (slot.use == Use::kReserved) return true;
  }
  return false;
}

bool SlotBook::reserve() {
  if (reserved()) return true;
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].use != Use::kFree) continue;
    if (locks_.try_lock(i) || seeded(Bug::kIgnoreReaderLock)) {
      slots_[i].use = Use::kReserved;
      return true;
    }
  }
  return false;
}

std::uint32_t SlotBook::begin_write(std::uint64_t grant) {
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].use != Use::kReserved) continue;
    slots_[i] = Slot{Use::kWriting, grant, 0};
    return i;
  }
  return size();  // precondition broken: no slot of ours
}

void SlotBook::seal(std::uint32_t slot, std::uint64_t point) {
  slots_[slot].use = Use::kSealed;
  slots_[slot].point = point;
  locks_.unlock(slot);
}

void SlotBook::abandon(std::uint32_t slot) {
  slots_[slot] = Slot{};
  locks_.unlock(slot);
}

void SlotBook::release_unless(
    const std::function<bool(std::uint64_t grant, std::uint64_t point)>& needed) {
  if (seeded(Bug::kLostRelease)) return;
  for (Slot& slot : slots_) {
    if (slot.use == Use::kSealed && !needed(slot.grant, slot.point)) slot = Slot{};
  }
}

std::optional<std::uint32_t> SlotBook::writing() const noexcept {
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].use == Use::kWriting) return i;
  }
  return std::nullopt;
}

std::uint32_t SlotBook::count_sealed() const noexcept {
  std::uint32_t count = 0;
  for (const Slot& slot : slots_) count += slot.use == Use::kSealed ? 1 : 0;
  return count;
}

}  // namespace weightcast::protocol
