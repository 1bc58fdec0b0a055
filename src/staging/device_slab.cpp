#include "staging/device_slab.hpp"

#include <algorithm>
#include <utility>

namespace weightcast::staging {
namespace {

/// Slots begin on a page of a device's memory, as allocations do.
constexpr std::uint64_t kSlotAlignment = 64 << 10;

std::uint64_t stride_of(std::uint64_t slot_bytes) noexcept {
  return std::max(kSlotAlignment,
                  (slot_bytes + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment);
}

}  // namespace

std::uint64_t DeviceSlab::total_bytes(std::uint32_t slots, std::uint64_t slot_bytes) noexcept {
  return slots * stride_of(slot_bytes);
}

Result<std::unique_ptr<DeviceSlab>> DeviceSlab::create(std::shared_ptr<driver::Cuda> cuda,
                                                       int device, std::uint32_t slots,
                                                       std::uint64_t slot_bytes) {
  std::unique_ptr<DeviceSlab> slab(new DeviceSlab(std::move(cuda), device));
  slab->stride_ = stride_of(slot_bytes);
  slab->slot_bytes_ = slot_bytes;
  auto properties = slab->cuda_->properties(device);
  if (!properties) return properties.status();
  slab->identity_ = properties->identity;
  const std::uint64_t total = total_bytes(slots, slot_bytes);
  auto memory = slab->cuda_->allocate(device, total);
  if (!memory) {
    return Status(memory.status().code(),
                  std::to_string(slots) + " slots of " + std::to_string(slot_bytes) +
                      " bytes in the memory of device " + std::to_string(device) + ": " +
                      memory.status().message() + "; use fewer slots, or staging = host");
  }
  slab->memory_ = static_cast<std::byte*>(*memory);
  auto handle = slab->cuda_->export_memory(device, *memory);
  if (!handle) return handle.status();
  slab->handle_.assign(reinterpret_cast<const char*>(handle->bytes.data()), handle->bytes.size());
  return slab;
}

DeviceSlab::~DeviceSlab() {
  if (memory_ != nullptr) cuda_->free(device_, memory_);
}

}  // namespace weightcast::staging
