// Counts of values in fixed ranges, for metrics.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace weightcast::base {

/// Never allocates nor waits: an observation is two relaxed additions.
/// Thread safety: all calls from any thread. What is read meanwhile may lack the newest observations.
class Histogram {
 public:
  static constexpr std::size_t kMostBounds = 20;

  /// @param bounds greatest value of each range, rising, at most kMostBounds; they outlive this. A
  ///   last range beyond them takes the rest
  explicit Histogram(std::span<const std::int64_t> bounds) noexcept
      : bounds_(bounds.first(bounds.size() < kMostBounds ? bounds.size() : kMostBounds)) {}

  void observe(std::int64_t value) noexcept {
    std::size_t range = 0;
    while (range < bounds_.size() && value > bounds_[range]) ++range;
    counts_[range].fetch_add(1, std::memory_order_relaxed);
    sum_.fetch_add(value, std::memory_order_relaxed);
  }

  std::span<const std::int64_t> bounds() const noexcept { return bounds_; }
  /// Of one range alone; `range` is at most bounds().size().
  std::uint64_t count(std::size_t range) const noexcept {
    return counts_[range].load(std::memory_order_relaxed);
  }
  std::int64_t sum() const noexcept { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::span<const std::int64_t> bounds_;
  std::array<std::atomic<std::uint64_t>, kMostBounds + 1> counts_{};
  std::atomic<std::int64_t> sum_{0};
};

/// For durations in nanoseconds: 50 us to one minute.
inline constexpr std::array<std::int64_t, 19> kDurationBounds = {
    50'000,        100'000,       250'000,       500'000,        1'000'000,
    2'500'000,     5'000'000,     10'000'000,    25'000'000,     50'000'000,
    100'000'000,   250'000'000,   500'000'000,   1'000'000'000,  2'500'000'000,
    5'000'000'000, 10'000'000'000, 30'000'000'000, 60'000'000'000};

}  // namespace weightcast::base
