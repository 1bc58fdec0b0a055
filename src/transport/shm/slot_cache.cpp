#include "transport/shm/slot_cache.hpp"

#include "staging/object_name.hpp"

namespace weightcast::transport {

MappedSlot::MappedSlot(std::unique_ptr<staging::SlotReader> reader) : reader_(std::move(reader)) {}

Status MappedSlot::hold(const SegmentAddress& address) {
  const std::lock_guard guard(mutex_);
  if (holders_ > 0) {
    if (version_ != address.version || generation_ != address.generation ||
        payload_bytes_ != address.payload_bytes) {
      return Status(Code::kStale, "slot " + address.object + " is held here with version " +
                                      to_string(version_) + " of generation " +
                                      std::to_string(generation_) + ", so it cannot hold version " +
                                      to_string(address.version) + " of generation " +
                                      std::to_string(address.generation));
    }
    ++holders_;
    return Status::ok();
  }
  auto locked = reader_->lock(address.version, address.generation, address.payload_bytes);
  if (!locked) return locked.status();
  lock_ = std::move(*locked);
  version_ = address.version;
  generation_ = address.generation;
  payload_bytes_ = address.payload_bytes;
  holders_ = 1;
  return Status::ok();
}

void MappedSlot::let_go() noexcept {
  const std::lock_guard guard(mutex_);
  if (--holders_ == 0) lock_ = staging::SlotLock();
}

namespace {

/// `slot` holds once more already.
std::shared_ptr<Segment> segment_of(std::shared_ptr<MappedSlot> slot,
                                    const SegmentAddress& address) {
  return std::make_shared<ShmSegment>(std::move(slot), address);
}

}  // namespace

Result<std::shared_ptr<Segment>> SlotCache::acquire(const SegmentAddress& address) {
  const auto name = staging::parse_object_name(address.object);
  if (!name || !name->slot) {
    return Status(Code::kInvalid, "\"" + address.object +
                                      "\" is no slot's name: expected weightcast."
                                      "<uid>.<job>.<policy>.<run>.r<rank>.<incarnation>.s<slot>");
  }
  const std::string_view owner = staging::prefix_of(address.object);
  if (owner != owner_) {
    // Another life of the source. Segments that are still held keep their slots themselves.
    slots_.clear();
    owner_ = owner;
  }
  if (const auto known = slots_.find(address.object); known != slots_.end()) {
    Status held = known->second->hold(address);
    if (held) return segment_of(known->second, address);
    if (held.code() != Code::kStale || !known->second->gone()) return held;
    slots_.erase(known);  // an owner that made its slab anew may have used the name again
  }
  auto reader = staging::SlotReader::open(address.object);
  if (!reader) return reader.status();
  auto slot = std::make_shared<MappedSlot>(std::move(*reader));
  slots_.emplace(address.object, slot);
  if (Status held = slot->hold(address); !held) return held;
  return segment_of(std::move(slot), address);
}

}  // namespace weightcast::transport
