// The slots of this host that a server may let others read.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "transport/shm/slot_cache.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Maps slots by their objects' names and holds versions in them, under the lock that every reader
/// takes: a slot is not rewritten while a segment of it lives.
/// Thread safety: any thread.
class SlotStore final : public SegmentStore {
 public:
  /// @param prefix only objects whose names begin with it are given out (staging::owner_prefix and
  /// a
  ///   dot, for those of one slab), so that a peer reads this policy's slots and nothing else
  explicit SlotStore(std::string prefix) : prefix_(std::move(prefix)) {}

  /// Maps the slot where it is new, which takes time once: a page table for its size.
  /// @return kNotFound also for a name without the prefix, kStale, and what SlotReader::open
  /// returns
  Result<std::shared_ptr<Segment>> hold(const SegmentAddress& address) override;

 private:
  const std::string prefix_;
  std::mutex mutex_;
  SlotCache cache_;
};

}  // namespace weightcast::transport
