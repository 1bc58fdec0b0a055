// How often observers are answered, so that looking at a job costs it little however many look.
#pragma once

#include <algorithm>
#include <cstddef>

#include <weightcast/types.hpp>

namespace weightcast::publisher {

/// Fifty answers of a small job a second, twenty at once; large ones count for more. Time that is
/// spent beyond that is waited for. Thread safety: one thread.
class StatusDesk {
 public:
  /// Whether the next request is answered. Ask it with the time that has come.
  bool has_time(Clock::time_point now) noexcept {
    const std::chrono::duration<double> passed = now - looked_;
    looked_ = now;
    left_ = std::min(kMostAtOnce, left_ + kAnswersASecond * std::max(0.0, passed.count()));
    return left_ >= 1;
  }
  /// An answer about so many members was given.
  void spend(std::size_t members) noexcept { left_ -= 1 + static_cast<double>(members) / kMembers; }

 private:
  static constexpr double kAnswersASecond = 50;
  static constexpr double kMostAtOnce = 20;
  static constexpr double kMembers = 64;  ///< are as much work as an answer itself

  double left_ = kMostAtOnce;
  Clock::time_point looked_;
};

}  // namespace weightcast::publisher
