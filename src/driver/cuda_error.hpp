// CUDA's errors as Status, in the way that cuda.hpp promises.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include <weightcast/status.hpp>

namespace weightcast::driver {

/// Ok for cudaSuccess; else the code that fits and "call: cudaErrorName: CUDA's text". Takes the
/// error off the calling thread, so that nobody else who asks CUDA for its last error gets it.
Status cuda_status(const char* call, cudaError_t error);

}  // namespace weightcast::driver
