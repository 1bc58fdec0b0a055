// The devices' primary contexts, made current by pushing and popping. cudaSetDevice would not do:
// setting back a thread that had none yet makes a context on device 0, of half a gigabyte.
#pragma once

#include <cuda.h>

#include <mutex>
#include <vector>

#include <weightcast/status.hpp>

namespace weightcast::driver {

/// Thread safety: any thread. Contexts are kept to the end of the process.
class Contexts {
 public:
  /// Finds the driver's functions. Makes no context. Once, before anything else.
  Status load(int devices);

  /// The device's context, made at its first use. That device is home from then on, if none was.
  Result<CUcontext> of(int device);
  /// Where memory of no device in particular is pinned: home; else a device that this process uses
  /// already; else -1.
  int used_device();

 private:
  friend class OnDevice;

  struct Functions {
    decltype(&::cuCtxPushCurrent) push = nullptr;
    decltype(&::cuCtxPopCurrent) pop = nullptr;
    decltype(&::cuDeviceGet) device = nullptr;
    decltype(&::cuDevicePrimaryCtxRetain) retain = nullptr;
    decltype(&::cuDevicePrimaryCtxGetState) state = nullptr;
  };
  Functions functions_;
  std::mutex mutex_;
  std::vector<CUcontext> contexts_;  ///< null: not used yet
  int home_ = -1;
};

/// The device is the calling thread's current one for this object's life.
class OnDevice {
 public:
  OnDevice(Contexts& contexts, int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  /// Why it is not.
  const Status& status() const noexcept { return status_; }

 private:
  Contexts& contexts_;
  Status status_;
};

}  // namespace weightcast::driver
