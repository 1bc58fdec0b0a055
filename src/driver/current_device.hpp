// Makes a device the calling thread's current one for a while: NCCL takes its device from there.
#pragma once

#include <weightcast/status.hpp>

namespace weightcast::driver {

/// By the driver's own library, loaded here, so that it does not matter which CUDA runtime the caller
/// and NCCL were built with: all of them go by the thread's current context. The device's primary
/// context, which they share, is made at the first use and kept.
class CurrentDevice {
 public:
  /// @return kUnavailable without a driver, kInvalid for a device that there is not
  static Result<CurrentDevice> set(int device);
  CurrentDevice(CurrentDevice&& other) noexcept : is_set_(other.is_set_) { other.is_set_ = false; }
  CurrentDevice& operator=(CurrentDevice&&) = delete;
  ~CurrentDevice();

 private:
  CurrentDevice() = default;
  bool is_set_ = true;
};

}  // namespace weightcast::driver
