// Slots in a device's memory: the payloads of a slab whose objects are headers and locks alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <weightcast/status.hpp>

#include "driver/cuda.hpp"

namespace weightcast::staging {

/// One allocation for all slots, exported once, so that other processes of the host map it once.
/// Thread safety: any thread.
class DeviceSlab {
 public:
  /// Blocks. @return kExhausted where the device has no room, with numbers; else as driver::Cuda
  static Result<std::unique_ptr<DeviceSlab>> create(std::shared_ptr<driver::Cuda> cuda, int device,
                                                    std::uint32_t slots, std::uint64_t slot_bytes);
  ~DeviceSlab();  ///< frees; may wait for what the device still does there
  DeviceSlab(const DeviceSlab&) = delete;
  DeviceSlab& operator=(const DeviceSlab&) = delete;

  /// Bytes that slots of this size take of the device.
  static std::uint64_t total_bytes(std::uint32_t slots, std::uint64_t slot_bytes) noexcept;

  int device() const noexcept { return device_; }
  /// "GPU-<uuid>" of the device.
  const std::string& identity() const noexcept { return identity_; }
  /// What names the allocation to others: plan::Share::device_memory.
  const std::string& handle() const noexcept { return handle_; }
  /// Where a slot's payload begins in the allocation: plan::Share::device_offset.
  std::uint64_t offset(std::uint32_t slot) const noexcept { return slot * stride_; }
  /// Device memory.
  std::span<std::byte> payload(std::uint32_t slot) const noexcept {
    return {memory_ + offset(slot), static_cast<std::size_t>(slot_bytes_)};
  }

 private:
  DeviceSlab(std::shared_ptr<driver::Cuda> cuda, int device) noexcept
      : cuda_(std::move(cuda)), device_(device) {}

  std::shared_ptr<driver::Cuda> cuda_;
  int device_;
  std::byte* memory_ = nullptr;
  std::uint64_t stride_ = 0;
  std::uint64_t slot_bytes_ = 0;
  std::string identity_;
  std::string handle_;
};

}  // namespace weightcast::staging
