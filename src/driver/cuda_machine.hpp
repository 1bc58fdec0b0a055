// What load_cuda() gives: made by cuda_runtime.cpp, or in a build without CUDA by cuda_none.cpp.
#pragma once

#include <memory>

#include "driver/cuda.hpp"

namespace weightcast::driver {

/// Asks the driver; makes no context on any device.
/// @return kUnavailable that says what is missing
Result<std::shared_ptr<Cuda>> make_machine_cuda();

}  // namespace weightcast::driver
