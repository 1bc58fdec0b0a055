// Devices by libtorch's own means: what is here works with a libtorch without CUDA, too.
#pragma once

#include <optional>
#include <string>

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace weightcast::detail {

/// weightcast's number of a device: -1 for host memory, else CUDA's ordinal; none for others'.
inline std::optional<int> device_number(const c10::Device& device) noexcept {
  if (device.type() == c10::DeviceType::CPU) return -1;
  if (device.type() == c10::DeviceType::CUDA) return device.index();
  return std::nullopt;
}

/// libtorch's device of such a number.
inline c10::Device torch_device(int number) noexcept {
  if (number < 0) return c10::Device(c10::DeviceType::CPU);
  return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(number));
}

inline const c10::impl::DeviceGuardImplInterface& device_guard(int number) {
  return *c10::impl::getDeviceGuardImpl(torch_device(number).type());
}

/// The native handle (cudaStream_t) of the calling thread's current stream on a device, number 0 or
/// more. @throw c10::Error where this libtorch does not know such devices
inline void* current_stream(int number) {
  const auto& guard = device_guard(number);
  return guard.getStreamNativeHandle(guard.getStream(torch_device(number)));
}

/// Waits for all work of the device that is queued so far. Blocks; for the rare case alone.
inline void synchronize_device(int number) noexcept {
  try {
    device_guard(number).synchronizeDevice(static_cast<c10::DeviceIndex>(number));
  } catch (const std::exception&) {
    // The device is lost, and with it all work on it.
  }
}

/// Gives memory that libtorch keeps for later back to the device.
inline void empty_device_cache(int number) noexcept {
  try {
    if (auto* allocator = at::getDeviceAllocator(torch_device(number).type())) allocator->emptyCache();
  } catch (const std::exception&) {
    // It keeps it, then.
  }
}

}  // namespace weightcast::detail
