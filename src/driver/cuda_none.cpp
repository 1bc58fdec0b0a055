#include "driver/cuda_machine.hpp"

namespace weightcast::driver {

Result<std::shared_ptr<Cuda>> make_machine_cuda() {
  return Status(Code::kUnavailable,
                "this weightcast was built without CUDA, so tensors must be in host memory; to use "
                "devices build it where nvcc is installed, with -Dcuda=enabled");
}

}  // namespace weightcast::driver
