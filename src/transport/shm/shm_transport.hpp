// Bytes through shared memory of one host: the receiver maps the source's slots.
#pragma once

#include <utility>

#include "transport/shm/slot_cache.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Lanes of it show segments in place (Segment::view()) and copy buckets on threads of their own,
/// which the first submit starts. A lane follows one source: it keeps the slots mapped that it has
/// met, and forgets them when the source changes.
/// SegmentAddress::object is the name of a slot (staging::Slab::object_name).
///
/// Beyond what Lane says: a bucket counts as in flight until poll() has handed out its completion.
/// abort() also ends buckets that are being copied, between two pieces. After close() and abort(),
/// acquire() and poll() go on to work. The destructor aborts and waits for the copy threads: at
/// most one piece each.
/// Thread safety: the transport's own calls may come from any thread.
class ShmTransport final : public Transport {
 public:
  /// @param use with CUDA, lanes register slots for its devices (Segment::registered_view), and
  ///   nobody may write to what they show
  explicit ShmTransport(SlotUse use = {}) : use_(std::move(use)) {}
  std::string_view name() const noexcept override { return "shm"; }
  /// kDenied or kUnavailable where /dev/shm is missing or this user may not write to it.
  Status viable() const override;
  Reach reach() const noexcept override { return Reach::kHost; }
  /// @return kInvalid for copy_threads outside 1..64 or max_in_flight of 0
  Result<std::unique_ptr<Lane>> open_lane(const LaneOptions& options) override;

 private:
  const SlotUse use_;
};

}  // namespace weightcast::transport
