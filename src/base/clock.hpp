// Time that tests and the simulation can take over.
#pragma once

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

}  // namespace weightcast::base
