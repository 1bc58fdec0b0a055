#include "device.hpp"

#include <dlfcn.h>
#include <stdexcept>

#include <torch/cuda.h>

namespace grpo {

c10::Device open_device(const std::string& name) {
  const bool is_cuda = name == "cuda" || name.starts_with("cuda:");
  if (name != "cpu" && !is_cuda) {
    throw std::runtime_error("--device expects cpu, cuda or cuda:N, but got '" + name + "'");
  }
  if (!is_cuda) return {c10::DeviceType::CPU};
  // Stays loaded: torch registers what is in it for good.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error(std::string("--device ") + name + ": torch's CUDA library is not there (" +
                             dlerror() + "): install torch with CUDA, or use --device cpu");
  }
  const c10::Device device(name == "cuda" ? "cuda:0" : name);
  const auto devices = static_cast<int>(torch::cuda::device_count());
  if (device.index() >= devices) {
    throw std::runtime_error("--device " + name + ": torch sees " + std::to_string(devices) +
                             " CUDA devices here; use another one, or --device cpu");
  }
  return device;
}

}  // namespace grpo
