// Failures by their code, for metrics.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include <weightcast/status.hpp>

namespace weightcast::base {

/// Thread safety: all calls from any thread.
class CodeCounts {
 public:
  static constexpr std::size_t kCodes = static_cast<std::size_t>(Code::kInternal) + 1;

  void add(Code code) noexcept { counts_[index(code)].fetch_add(1, std::memory_order_relaxed); }
  std::uint64_t of(Code code) const noexcept {
    return counts_[index(code)].load(std::memory_order_relaxed);
  }
  std::uint64_t total() const noexcept {
    std::uint64_t sum = 0;
    for (const auto& count : counts_) sum += count.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  static std::size_t index(Code code) noexcept {
    const auto at = static_cast<std::size_t>(code);
    return at < kCodes ? at : kCodes - 1;
  }

  std::array<std::atomic<std::uint64_t>, kCodes> counts_{};
};

}  // namespace weightcast::base
