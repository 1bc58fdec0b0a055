// A bounded queue of events: many threads put, one takes, nobody waits and nothing is allocated.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weightcast::base {

/// Vyukov's bounded queue: each cell has a turn that says whose it is. A thread that is stopped
/// between taking a cell and filling it holds up the reader, never another writer.
/// Thread safety: put from any thread; take from one at a time.
template <class T>
class TraceRing {
 public:
  /// @param capacity a power of two
  explicit TraceRing(std::size_t capacity) : cells_(capacity), mask_(capacity - 1) {
    for (std::size_t i = 0; i < capacity; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
  }

  /// @return false where it is full; then nothing was taken over
  bool put(const T& value) noexcept {
    std::uint64_t at = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[at & mask_];
      const std::uint64_t turn = cell.turn.load(std::memory_order_acquire);
      if (turn == at) {
        if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
          cell.value = value;
          cell.turn.store(at + 1, std::memory_order_release);
          return true;
        }
      } else if (turn < at) {
        return false;
      } else {
        at = tail_.load(std::memory_order_relaxed);
      }
    }
  }

  /// @return false where there is none, or where the next one is just being put
  bool take(T& value) noexcept {
    Cell& cell = cells_[head_ & mask_];
    if (cell.turn.load(std::memory_order_acquire) != head_ + 1) return false;
    value = cell.value;
    cell.turn.store(head_ + mask_ + 1, std::memory_order_release);
    ++head_;
    return true;
  }

 private:
  struct Cell {
    std::atomic<std::uint64_t> turn{0};
    T value{};
  };

  std::vector<Cell> cells_;
  const std::uint64_t mask_;
  alignas(64) std::atomic<std::uint64_t> tail_{0};
  alignas(64) std::uint64_t head_ = 0;  ///< the reader's
};

}  // namespace weightcast::base
