#include "driver/current_device.hpp"

#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>

namespace weightcast::driver {
namespace {

// The driver's C interface, which has not changed since CUDA 4.
using Context = void*;
struct Driver {
  int (*init)(unsigned) = nullptr;
  int (*device_get)(int*, int) = nullptr;
  int (*retain)(Context*, int) = nullptr;
  int (*push)(Context) = nullptr;
  int (*pop)(Context*) = nullptr;
  Status status;
  std::mutex mutex;
  std::map<int, Context> contexts;  ///< retained for good
};

template <class Function>
bool find(void* library, const char* name, Function& out) {
  out = reinterpret_cast<Function>(::dlsym(library, name));
  return out != nullptr;
}

Driver* open_driver() {
  auto* const driver = new Driver;  // never destroyed: nothing of CUDA ends in static destructors
  void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    driver->status = {Code::kUnavailable,
                      "there is no CUDA driver (libcuda.so.1) on this machine; NCCL needs one"};
    return driver;
  }
  if (!find(library, "cuInit", driver->init) || !find(library, "cuDeviceGet", driver->device_get) ||
      !find(library, "cuDevicePrimaryCtxRetain", driver->retain) ||
      !find(library, "cuCtxPushCurrent_v2", driver->push) ||
      !find(library, "cuCtxPopCurrent_v2", driver->pop)) {
    driver->status = {Code::kUnavailable, "libcuda.so.1 lacks functions of CUDA 7 and newer"};
    return driver;
  }
  if (const int error = driver->init(0); error != 0) {
    driver->status = {Code::kUnavailable, "cuInit: error " + std::to_string(error) +
                                              "; look whether nvidia-smi sees a device"};
  }
  return driver;
}

Driver& driver() {
  static Driver* const the = open_driver();
  return *the;
}

}  // namespace

Result<CurrentDevice> CurrentDevice::set(int device) {
  Driver& cuda = driver();
  if (!cuda.status) return cuda.status;
  Context context = nullptr;
  {
    const std::lock_guard lock(cuda.mutex);
    Context& known = cuda.contexts[device];
    if (known == nullptr) {
      int handle = 0;
      if (const int error = cuda.device_get(&handle, device); error != 0) {
        return Status(Code::kInvalid, "cuDeviceGet: error " + std::to_string(error) +
                                          " for device " + std::to_string(device));
      }
      if (const int error = cuda.retain(&known, handle); error != 0) {
        known = nullptr;
        return Status(Code::kUnavailable, "cuDevicePrimaryCtxRetain: error " +
                                              std::to_string(error) + " for device " +
                                              std::to_string(device));
      }
    }
    context = known;
  }
  if (const int error = cuda.push(context); error != 0) {
    return Status(Code::kInternal, "cuCtxPushCurrent: error " + std::to_string(error));
  }
  return CurrentDevice();
}

CurrentDevice::~CurrentDevice() {
  Context context = nullptr;
  if (is_set_) (void)driver().pop(&context);
}

}  // namespace weightcast::driver
