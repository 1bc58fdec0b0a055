#include "driver/cuda_contexts.hpp"

#include <string>

#include "driver/cuda_error.hpp"

namespace weightcast::driver {
namespace {

// CUresult and cudaError_t share their numbers.
Status driver_status(const char* call, CUresult result) {
  return cuda_status(call, static_cast<cudaError_t>(result));
}

template <class Function>
Status find(const char* name, Function& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
  constexpr unsigned kInterface = 12000;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &found, kInterface, cudaEnableDefault, &result);
#else
  const cudaError_t error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &result);
#endif
  if (error != cudaSuccess) return cuda_status("cudaGetDriverEntryPoint", error);
  if (result != cudaDriverEntryPointSuccess || found == nullptr) {
    return {Code::kUnavailable, std::string("the NVIDIA driver has no ") + name +
                                    "; install one that is made for CUDA 12 or newer"};
  }
  function = reinterpret_cast<Function>(found);
  return {};
}

}  // namespace

Status Contexts::load(int devices) {
  contexts_.assign(static_cast<std::size_t>(devices), nullptr);
  if (Status s = find("cuCtxPushCurrent", functions_.push); !s) return s;
  if (Status s = find("cuCtxPopCurrent", functions_.pop); !s) return s;
  if (Status s = find("cuDeviceGet", functions_.device); !s) return s;
  if (Status s = find("cuDevicePrimaryCtxRetain", functions_.retain); !s) return s;
  return find("cuDevicePrimaryCtxGetState", functions_.state);
}

Result<CUcontext> Contexts::of(int device) {
  const std::lock_guard lock(mutex_);
  if (device < 0 || static_cast<std::size_t>(device) >= contexts_.size()) {
    return Status(Code::kInvalid, "expected a device from 0 to " +
                                      std::to_string(contexts_.size() - 1) + ", got " +
                                      std::to_string(device) +
                                      "; CUDA_VISIBLE_DEVICES says which there are");
  }
  CUcontext& context = contexts_[static_cast<std::size_t>(device)];
  if (context == nullptr) {
    CUdevice handle = 0;
    if (Status s = driver_status("cuDeviceGet", functions_.device(&handle, device)); !s) return s;
    CUcontext made = nullptr;
    if (Status s = driver_status("cuDevicePrimaryCtxRetain", functions_.retain(&made, handle));
        !s) {
      return s;
    }
    context = made;
  }
  if (home_ < 0) home_ = device;
  return context;
}

int Contexts::used_device() {
  const std::lock_guard lock(mutex_);
  if (home_ >= 0) return home_;
  for (int device = 0; device < static_cast<int>(contexts_.size()); ++device) {
    CUdevice handle = 0;
    unsigned flags = 0;
    int is_active = 0;
    if (functions_.device(&handle, device) != CUDA_SUCCESS) continue;
    if (functions_.state(handle, &flags, &is_active) != CUDA_SUCCESS) continue;
    if (is_active != 0) return device;
  }
  return -1;
}

OnDevice::OnDevice(Contexts& contexts, int device) : contexts_(contexts) {
  const auto context = contexts.of(device);
  status_ = context ? driver_status("cuCtxPushCurrent", contexts.functions_.push(*context))
                    : context.status();
}

OnDevice::~OnDevice() {
  CUcontext popped = nullptr;
  if (status_) static_cast<void>(contexts_.functions_.pop(&popped));
}

}  // namespace weightcast::driver
