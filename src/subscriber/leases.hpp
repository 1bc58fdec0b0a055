// Who holds which version, and since when.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>

#include <weightcast/types.hpp>

#include "base/histogram.hpp"
#include "subscriber/image.hpp"

namespace weightcast::subscriber {

/// Thread safety: all calls from any thread. Lives as long as the subscriber or any lease.
class LeaseBook : public std::enable_shared_from_this<LeaseBook> {
 public:
  explicit LeaseBook(std::shared_ptr<ImageRoom> room) : room_(std::move(room)) {}

  /// Notes a lease; it ends when the ticket is gone.
  std::shared_ptr<void> open(const Version& version, Clock::time_point now) {
    const std::lock_guard lock(mutex_);
    entries_.push_back({version, now});
    const auto entry = std::prev(entries_.end());
    return {nullptr, [book = shared_from_this(), entry](void*) { book->close(entry); }};
  }

  std::uint32_t count() const {
    const std::lock_guard lock(mutex_);
    return static_cast<std::uint32_t>(entries_.size());
  }

  /// Of leases that have ended, in ns.
  const base::Histogram& durations() const noexcept { return durations_; }

  /// Whether a lease that was given by then is still held.
  bool held_since(Clock::time_point then) const {
    const std::lock_guard lock(mutex_);
    return std::any_of(entries_.begin(), entries_.end(),
                       [&](const Entry& entry) { return entry.since <= then; });
  }

  /// Since when the longest-held lease on a version other than `serving` is held: these are the
  /// ones that keep the next version out.
  std::optional<Clock::time_point> oldest_but(const Version& serving) const {
    const std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_) {
      if (entry.version != serving) return entry.since;
    }
    return std::nullopt;
  }

 private:
  struct Entry {
    Version version;
    Clock::time_point since;
  };

  void close(std::list<Entry>::iterator entry) {
    durations_.observe((Clock::now() - entry->since).count());
    {
      const std::lock_guard lock(mutex_);
      entries_.erase(entry);
    }
    room_->notify();
  }

  std::shared_ptr<ImageRoom> room_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;
  base::Histogram durations_{base::kDurationBounds};
};

}  // namespace weightcast::subscriber
