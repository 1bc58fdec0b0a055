// Wakes a thread a moment after the caller has gone on with its own work.
#pragma once

#include <sys/timerfd.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>

#include "base/unique_fd.hpp"

namespace weightcast::publisher {

/// A direct wake-up costs the caller a system call that takes long where the woken thread's processor
/// sleeps, and at the next tick of the clock the scheduler may give the caller's processor to it for
/// some milliseconds. Setting a timer costs a microsecond, and who is woken by it finds the caller gone.
///
/// Thread safety: wake_in() from any thread, wait() from one.
class DeferredWake {
 public:
  DeferredWake() : timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) {}

  /// False where the descriptors have run out: then nobody is woken by it.
  bool works() const noexcept { return static_cast<bool>(timer_); }

  /// Ends a wait() `delay` from now; a later call replaces an earlier one.
  void wake_in(std::chrono::microseconds delay) noexcept {
    const auto ns = std::chrono::nanoseconds(delay).count();
    itimerspec when{};
    when.it_value.tv_sec = static_cast<time_t>(ns / 1'000'000'000);
    when.it_value.tv_nsec = static_cast<long>(ns % 1'000'000'000) + (ns == 0 ? 1 : 0);
    ::timerfd_settime(timer_.get(), 0, &when, nullptr);
  }

  /// Waits for the timer, without bound; may return early.
  void wait() noexcept {
    std::uint64_t expirations = 0;
    [[maybe_unused]] const auto got = ::read(timer_.get(), &expirations, sizeof expirations);
  }

 private:
  base::UniqueFd timer_;
};

}  // namespace weightcast::publisher
