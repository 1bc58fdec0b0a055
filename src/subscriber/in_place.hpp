// Switching in place: leases are drained, then the bytes change where they lie.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <weightcast/subscriber.hpp>

#include "base/log.hpp"
#include "subscriber/incoming.hpp"
#include "subscriber/leases.hpp"
#include "subscriber/stager_host.hpp"

namespace weightcast::subscriber {

/// The memory that the versions of an engine lie in one after the other, and how the next one gets
/// there. Never writes while a lease or a tensor still shows what is there.
/// Thread safety: one thread; overdue() from any.
class InPlace {
 public:
  struct Options {
    Duration lease_deadline{};
    std::uint32_t copy_threads = 1;
    /// Where tensors outlive their leases: how long these go on before it is tried again.
    Duration next_try = std::chrono::seconds(5);
  };
  /// Fetches an incoming version's bytes to where it is told, and verifies them.
  using Fetcher = std::function<Status(Incoming&, std::span<std::byte>)>;

  /// @param cancelled whether an operation is given up (or the subscriber is closing); looked at in
  ///   every wait
  InPlace(Options options, std::shared_ptr<Applier> applier, std::shared_ptr<ImageRoom> room,
          std::shared_ptr<LeaseBook> leases, StagerHost& host, Fetcher fetch,
          std::function<bool(std::uint64_t op)> cancelled);

  /// Drains, brings the bytes (from the staged copy, or by the fetcher), and has the applier place
  /// them. A fault on the way rolls forward, a few times, from what is staged or in place. Blocks
  /// until leases have ended, however long they are held.
  /// @return the image to commit and serve. Else the applier was rolled back, and unless left_alone()
  ///   nothing is served any more
  Result<std::shared_ptr<Image>> take_in(Incoming& incoming);

  /// Whether the last take_in ended before anything was touched: what was served still is.
  bool left_alone() const noexcept { return left_alone_; }

  /// Whether a drain goes on for longer than lease_deadline, or leases keep it from beginning anew.
  bool overdue() const noexcept { return overdue_; }
  /// Whether there is memory already that `bytes` fit into.
  bool has_room(std::uint64_t bytes) const noexcept {
    return live_ && live_->bytes().size() >= bytes;
  }

 private:
  Status drain(const Incoming& incoming);
  bool leases_end_by(Deadline until, std::uint64_t op);
  bool vacated(const Incoming& incoming);
  void reinstate(const std::shared_ptr<Image>& former, const Version& next);
  Status bring(Incoming& incoming);
  Status copy_staged(Incoming& incoming);
  Status fetch_in_place(Incoming& incoming);
  Result<std::shared_ptr<Image>> place(Incoming& incoming);

  const Options options_;
  const std::shared_ptr<Applier> applier_;
  const std::shared_ptr<ImageRoom> room_;
  const std::shared_ptr<LeaseBook> leases_;
  StagerHost& host_;
  const Fetcher fetch_;
  const std::function<bool(std::uint64_t)> cancelled_;
  std::atomic<bool> overdue_{false};
  bool left_alone_ = false;
  bool begun_ = false;  ///< the applier has begun the incoming version, and was not rolled back since
  std::weak_ptr<Image> former_;  ///< served last: while it is there, so is what shows its bytes
  std::shared_ptr<ImageBuffer> live_;
  std::vector<plan::ImageTensor> live_tensors_;  ///< where they lie in live_
  base::RateLimit held_warning_{std::chrono::seconds(30)};
};

}  // namespace weightcast::subscriber
