// The slots of one source as its receiver keeps them: mapped once, locked while anybody here needs
// the version in them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>

#include "staging/slot_reader.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// One mapped slot and those in this process who hold it. There is one flock for all of them (a
/// second one on the same descriptor would be ended by the first unlock), so they are counted.
/// Thread safety: all calls from any thread.
class MappedSlot {
 public:
  explicit MappedSlot(std::unique_ptr<staging::SlotReader> reader);

  /// Joins the holders of this version, or locks it as the first.
  /// @return kStale where the slot holds, or is held here with, something else
  Status hold(const SegmentAddress& address);
  void let_go() noexcept;

  /// Whether nothing new will come in this slot, because its owner has unlinked it.
  bool gone() const noexcept { return reader_->gone(); }

  std::span<std::byte> payload() noexcept { return reader_->payload(); }

 private:
  std::mutex mutex_;
  const std::unique_ptr<staging::SlotReader> reader_;
  staging::SlotLock lock_;  ///< ends before the reader, whose descriptor it uses
  std::uint32_t holders_ = 0;
  Version version_;  ///< what is held, and the next two
  std::uint64_t generation_ = 0;
  std::uint64_t payload_bytes_ = 0;
};

/// A held version. Keeps its slot mapped, whatever becomes of the lane.
class ShmSegment final : public Segment {
 public:
  /// Takes over one hold of `slot`.
  ShmSegment(std::shared_ptr<MappedSlot> slot, const SegmentAddress& address) noexcept
      : slot_(std::move(slot)), version_(address.version), payload_bytes_(address.payload_bytes) {}
  ~ShmSegment() override { slot_->let_go(); }
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;

  std::span<std::byte> view() noexcept override { return slot_->payload().first(payload_bytes_); }
  const Version& version() const noexcept { return version_; }

 private:
  const std::shared_ptr<MappedSlot> slot_;
  const Version version_;
  const std::uint64_t payload_bytes_;
};

/// The slots met so far of one owner, at most as many as a slab can have. One thread at a time.
class SlotCache {
 public:
  /// Maps the slot where it is new (which takes time, once) and holds the version.
  /// @return kInvalid for a name that is no slot's, and what SlotReader::open and lock return
  Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address);

 private:
  std::string owner_;  ///< prefix of the names of all in slots_
  std::unordered_map<std::string, std::shared_ptr<MappedSlot>> slots_;
};

}  // namespace weightcast::transport
