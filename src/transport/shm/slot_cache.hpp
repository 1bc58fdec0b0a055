// The slots of one source as its receiver keeps them: mapped once, locked while anybody here needs
// the version in them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "driver/cuda.hpp"
#include "staging/slot_reader.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// How a cache maps its slots.
struct SlotUse {
  staging::SlotMapping mapping = staging::SlotMapping::kPrivate;
  std::shared_ptr<driver::Cuda> cuda{};  ///< registers what is mapped, for its devices; null: nothing is
};

/// One mapped slot and those in this process who hold it. There is one flock for all of them (a
/// second one on the same descriptor would be ended by the first unlock), so they are counted.
/// Thread safety: all calls from any thread.
class MappedSlot {
 public:
  /// Registers the payload, which takes some 40 ms a GB; where that fails it is logged and the slot
  /// is used as it is.
  MappedSlot(std::unique_ptr<staging::SlotReader> reader, std::shared_ptr<driver::Cuda> cuda);
  ~MappedSlot();
  MappedSlot(const MappedSlot&) = delete;
  MappedSlot& operator=(const MappedSlot&) = delete;

  /// Joins the holders of this version, or locks it as the first.
  /// @return kStale where the slot holds, or is held here with, something else
  Status hold(const SegmentAddress& address);
  void let_go() noexcept;

  /// Whether nothing new will come in this slot, because its owner has unlinked it.
  bool gone() const noexcept { return reader_->gone(); }
  /// As SlotReader's.
  std::optional<std::uint64_t> written(std::uint64_t generation) const noexcept {
    return reader_->written(generation);
  }

  /// Empty where it is not mapped.
  std::span<std::byte> payload() noexcept { return reader_->payload(); }
  bool is_registered() const noexcept { return !registered_.empty(); }

 private:
  std::mutex mutex_;
  const std::unique_ptr<staging::SlotReader> reader_;
  const std::shared_ptr<driver::Cuda> cuda_;
  std::span<std::byte> registered_;  ///< whole pages
  staging::SlotLock lock_;  ///< ends before the reader, whose descriptor it uses
  std::uint32_t holders_ = 0;
  Version version_;  ///< what is held, and the next two
  std::uint64_t generation_ = 0;
  std::uint64_t payload_bytes_ = 0;
};

/// One of a slot's holders. Keeps the slot mapped, whatever becomes of the lane. Movable.
class SlotHold {
 public:
  SlotHold() noexcept = default;
  /// Takes over one hold.
  explicit SlotHold(std::shared_ptr<MappedSlot> slot) noexcept : slot_(std::move(slot)) {}
  SlotHold(SlotHold&&) noexcept = default;
  SlotHold& operator=(SlotHold&&) = delete;
  ~SlotHold() {
    if (slot_) slot_->let_go();
  }
  MappedSlot& slot() const noexcept { return *slot_; }

 private:
  std::shared_ptr<MappedSlot> slot_;
};

/// A held version in shared memory.
class ShmSegment final : public Segment {
 public:
  ShmSegment(SlotHold hold, const SegmentAddress& address) noexcept
      : hold_(std::move(hold)), version_(address.version), payload_bytes_(address.payload_bytes) {}

  std::span<std::byte> view() noexcept override {
    return hold_.slot().payload().first(payload_bytes_);
  }
  std::span<const std::byte> registered_view() noexcept override {
    return hold_.slot().is_registered() ? view() : std::span<std::byte>();
  }
  const Version& version() const noexcept { return version_; }

 private:
  const SlotHold hold_;
  const Version version_;
  const std::uint64_t payload_bytes_;
};

/// The slots met so far of one owner, at most as many as a slab can have. One thread at a time.
class SlotCache {
 public:
  explicit SlotCache(SlotUse use = {}) : use_(std::move(use)) {}

  /// Maps the slot where it is new (which takes time, once) and holds the version. Where slots are
  /// registered, the first one of an owner brings all of its others along, so that later versions
  /// wait for none.
  /// @return kInvalid for a name that is no slot's, and what SlotReader::open and lock return
  Result<SlotHold> hold(const SegmentAddress& address);
  /// The same, of a payload in shared memory. @return besides, kInvalid where it is not there
  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address);
  /// As Lane's.
  Result<std::shared_ptr<Draft>> follow(const SegmentAddress& address);

 private:
  Status meet(const std::string& object);
  Result<std::shared_ptr<MappedSlot>> find(const std::string& object);
  void meet_siblings(const std::string& object);

  const SlotUse use_;
  std::string owner_;  ///< prefix of the names of all in slots_
  std::unordered_map<std::string, std::shared_ptr<MappedSlot>> slots_;
};

}  // namespace weightcast::transport
