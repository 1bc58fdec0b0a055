#include "transport/shm/slot_cache.hpp"

#include "base/log.hpp"
#include "staging/object_name.hpp"
#include "staging/slot_format.hpp"

namespace weightcast::transport {

MappedSlot::MappedSlot(std::unique_ptr<staging::SlotReader> reader,
                       std::shared_ptr<driver::Cuda> cuda)
    : reader_(std::move(reader)), cuda_(std::move(cuda)) {
  const std::span<std::byte> payload = reader_->payload();
  if (!cuda_ || payload.empty()) return;
  const std::span<std::byte> pages(payload.data(), staging::mapped_bytes(payload.size()));
  if (Status status = cuda_->register_host(pages.data(), pages.size()); !status) {
    base::log(LogLevel::kWarn, "slot_not_registered",
              {{"bytes", pages.size()},
               {"why", status.to_string()},
               {"what", "its bytes are copied twice on their way to the device"}});
    return;
  }
  registered_ = pages;
}

MappedSlot::~MappedSlot() {
  if (!registered_.empty()) cuda_->unregister_host(registered_.data(), registered_.size());
}

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

class SlotDraft final : public Draft {
 public:
  SlotDraft(std::shared_ptr<MappedSlot> slot, const SegmentAddress& address)
      : slot_(std::move(slot)),
        generation_(address.generation),
        payload_bytes_(address.payload_bytes) {}
  std::optional<std::uint64_t> written() noexcept override { return slot_->written(generation_); }
  std::span<const std::byte> registered_view() noexcept override {
    return slot_->payload().first(payload_bytes_);
  }

 private:
  const std::shared_ptr<MappedSlot> slot_;
  const std::uint64_t generation_;
  const std::uint64_t payload_bytes_;
};

}  // namespace

Status SlotCache::meet(const std::string& object) {
  auto reader = staging::SlotReader::open(object, use_.mapping);
  if (!reader) return reader.status();
  slots_.emplace(object, std::make_shared<MappedSlot>(std::move(*reader), use_.cuda));
  return Status::ok();
}

void SlotCache::meet_siblings(const std::string& object) {
  const std::string prefix(staging::prefix_of(object));
  for (std::uint32_t slot = 0; slot < staging::kMaxSlots; ++slot) {
    const std::string name = staging::slot_name(prefix, slot);
    if (!slots_.contains(name) && !meet(name)) return;
  }
}

Result<std::shared_ptr<MappedSlot>> SlotCache::find(const std::string& object) {
  const auto name = staging::parse_object_name(object);
  if (!name || !name->slot) {
    return Status(Code::kInvalid, "\"" + object +
                                      "\" is no slot's name: expected weightcast."
                                      "<uid>.<job>.<policy>.<run>.r<rank>.<incarnation>.s<slot>");
  }
  const std::string_view owner = staging::prefix_of(object);
  const bool is_new_owner = owner != owner_;
  if (is_new_owner) {
    // Another life of the source. Segments that are still held keep their slots themselves.
    slots_.clear();
    owner_ = owner;
  }
  if (!slots_.contains(object)) {
    if (Status met = meet(object); !met) return met;
    if (is_new_owner && use_.cuda) meet_siblings(object);
  }
  return slots_.at(object);
}

Result<SlotHold> SlotCache::hold(const SegmentAddress& address) {
  auto slot = find(address.object);
  if (!slot) return slot.status();
  Status held = (*slot)->hold(address);
  if (!held && held.code() == Code::kStale && (*slot)->gone()) {
    // An owner that made its slab anew may have used the name again.
    slots_.erase(address.object);
    slot = find(address.object);
    if (!slot) return slot.status();
    held = (*slot)->hold(address);
  }
  if (!held) return held;
  return SlotHold(std::move(*slot));
}

Result<std::shared_ptr<Segment>> SlotCache::acquire(const SegmentAddress& address) {
  auto held = hold(address);
  if (!held) return held.status();
  if (held->slot().payload().size() < address.payload_bytes) {
    return Status(Code::kInvalid, "the bytes of slot " + address.object +
                                      " lie in a device's memory: read them over cuda_ipc");
  }
  return std::shared_ptr<Segment>(
      std::make_shared<ShmSegment>(std::move(*held), address));
}

Result<std::shared_ptr<Draft>> SlotCache::follow(const SegmentAddress& address) {
  auto slot = find(address.object);
  if (!slot) return slot.status();
  if (!(*slot)->is_registered() || (*slot)->payload().size() < address.payload_bytes) {
    return Status(Code::kUnavailable, "slot " + address.object +
                                          " is not registered, so it is read once it is sealed");
  }
  return std::shared_ptr<Draft>(std::make_shared<SlotDraft>(std::move(*slot), address));
}

}  // namespace weightcast::transport
