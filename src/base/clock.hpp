// Time that tests and the simulation can take over.
#pragma once

#include <chrono>
#include <cstdint>

#include <weightcast/types.hpp>

namespace weightcast::base {

/// Where the time comes from. Thread safety: now() may be called from any thread.
class TimeSource {
 public:
  virtual ~TimeSource() = default;
  virtual Clock::time_point now() const noexcept = 0;
};

/// The monotonic clock of this machine.
const TimeSource& system_time() noexcept;

/// Microseconds since 1970 by the wall clock, which may be set back: for what has to rise over lives of a
/// process, and for people.
inline std::uint64_t unix_us() noexcept {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

}  // namespace weightcast::base
