// What leases are given, whether they may be, and what the user is told about it.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <weightcast/subscriber.hpp>

#include "base/code_counts.hpp"
#include "base/histogram.hpp"
#include "protocol/message.hpp"
#include "subscriber/image.hpp"
#include "subscriber/image_store.hpp"
#include "subscriber/leases.hpp"

namespace weightcast::subscriber {

/// Thread safety: all calls from any thread.
class Serving {
 public:
  static constexpr std::array<std::int64_t, 10> kStalenessBounds = {0, 1,  2,  3,  4,
                                                                    8, 16, 32, 64, 128};
  using AfterApply = std::function<void(const Version&)>;

  /// @param options outlives this
  /// @param place where the trainer is looked for, for messages
  Serving(const SubscriberOptions& options, std::string place, std::shared_ptr<LeaseBook> leases);

  // ---- the user's side ----
  /// A lease's image and its ticket.
  struct Hold {
    std::shared_ptr<Image> image;
    std::shared_ptr<void> ticket;
  };
  Result<Hold> acquire(Deadline deadline);
  Status wait_for(std::uint64_t number, Deadline deadline);
  std::shared_ptr<void> after_apply(AfterApply callback);
  SubscriberStatus status() const;

  /// What acquire() did, for metrics.
  struct Counts {
    /// How many numbers behind the newest published version a lease was when it was given.
    base::Histogram staleness{kStalenessBounds};
    base::CodeCounts refused;  ///< calls that gave no lease
  };
  const Counts& counts() const noexcept { return counts_; }

  // ---- the stager's side, as StagerHost says ----
  void serve(std::shared_ptr<Image> image);
  void pause(std::string why);
  void resume(std::shared_ptr<Image> image);
  std::shared_ptr<Image> withdraw(std::string why);

  // ---- the I/O thread's side ----
  void update(const std::function<void(SubscriberStatus&)>& change);
  void set_refused(std::optional<protocol::Refused> refused);
  /// Nobody waits any longer: the subscriber is closing.
  void stop();

  /// What joiners may read from here.
  const std::shared_ptr<ImageStore>& store() const noexcept { return store_; }

 private:
  Status may_serve() const;
  std::uint64_t versions_behind() const;
  void begin_pause();  ///< under the mutex, as the next
  void end_pause(const Image* next);
  std::string what_is_missing() const;

  const SubscriberOptions& options_;
  const std::string place_;
  const std::shared_ptr<LeaseBook> leases_;
  const std::shared_ptr<ImageStore> store_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::shared_ptr<Image> current_;
  std::string paused_;     ///< why new leases wait; empty: they do not
  std::optional<Clock::time_point> paused_since_;  ///< for the trace, where there is one
  std::string withdrawn_;  ///< why there is no current_ any more; empty: there is, or never was one
  SubscriberStatus status_;
  Counts counts_;
  std::optional<protocol::Refused> refused_;
  std::vector<std::weak_ptr<AfterApply>> callbacks_;
};

}  // namespace weightcast::subscriber
