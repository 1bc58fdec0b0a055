// What a fence will cost: how fast a device's captures are, and how long after one the trainer writes.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

#include <weightcast/types.hpp>

namespace weightcast::publisher {

/// Thread safety: none; its owner locks.
class CapturePace {
 public:
  /// @param bytes_a_second before anything was measured
  explicit CapturePace(double bytes_a_second) noexcept : rate_(bytes_a_second) {}

  void begin(std::uint64_t bytes) noexcept {
    total_ = bytes;
    done_ = 0;
    started_.reset();
  }
  void started(Clock::time_point now) noexcept { started_ = now; }
  void progress(std::uint64_t bytes_done) noexcept { done_ = bytes_done; }

  /// A whole capture took so long by the device's clock.
  void measured(std::chrono::nanoseconds took) noexcept {
    if (took.count() > 0 && total_ != 0) rate_ = double(total_) / (double(took.count()) * 1e-9);
  }
  /// From a capture's mark to its fence on the trainer's stream: the shorter one of the last two.
  void measured_window(std::chrono::nanoseconds window) noexcept {
    window_ = last_window_ ? std::min(*last_window_, window) : window;
    last_window_ = window;
  }

  /// How long the trainer's stream would wait in a fence that is queued now. The device may be far
  /// behind the thread that queues its work: then the copies have the time of that work, too.
  std::chrono::nanoseconds expected_wait(Clock::time_point now) const noexcept {
    double rate = rate_;
    std::chrono::nanoseconds passed{0};
    if (started_) {
      passed = now - *started_;
      // What this capture itself shows counts once it shows something.
      if (done_ > total_ / 8 && passed.count() > 0) {
        rate = double(done_) / (double(passed.count()) * 1e-9);
      }
    }
    const auto need = std::chrono::nanoseconds(
        std::int64_t(double(total_ - std::min(done_, total_)) / rate * 1e9));
    const auto slack = std::max(window_ - passed, std::chrono::nanoseconds(0));
    return std::max(need - slack, std::chrono::nanoseconds(0));
  }

 private:
  double rate_;
  std::uint64_t total_ = 0;
  std::uint64_t done_ = 0;
  std::optional<Clock::time_point> started_;
  std::chrono::nanoseconds window_{0};
  std::optional<std::chrono::nanoseconds> last_window_;
};

}  // namespace weightcast::publisher
