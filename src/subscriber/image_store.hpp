// What is served here, for engines that join and read it from this one.
#pragma once

#include <memory>
#include <mutex>

#include "subscriber/image.hpp"
#include "subscriber/leases.hpp"
#include "transport/transport.hpp"

namespace weightcast::subscriber {

/// Lends the shares of the image that leases get, as long as it is that one; a segment holds the
/// image and counts as a lease on it. What an in-place activation serves is not lent: it could not
/// take its next version in while a joiner reads.
/// Thread safety: all calls from any thread. Segments may outlive it.
class ImageStore final : public transport::SegmentStore {
 public:
  explicit ImageStore(std::shared_ptr<LeaseBook> leases) : leases_(std::move(leases)) {}

  /// From now on `image` is lent; null: none is.
  void serve(std::weak_ptr<Image> image);

  /// @return kStale where another version is served here; kNotFound where this image does not hold
  ///   the share as its source does (it is in place, sharded, or laid out otherwise)
  Result<std::shared_ptr<transport::Segment>> hold(
      const transport::SegmentAddress& address) override;

 private:
  const std::shared_ptr<LeaseBook> leases_;
  std::mutex mutex_;
  std::weak_ptr<Image> image_;
};

}  // namespace weightcast::subscriber
