// How members of a job tell GPUs apart for NCCL.
#pragma once

#include <string>

#include "driver/cuda.hpp"

namespace weightcast::stream {

/// The GPU's name: two members with the same one cannot meet in a communicator. NCCL itself takes
/// processes with different values of NCCL_HOSTID for those of different hosts, so where that is set it
/// is a part of the name: several processes on one GPU can then meet, for tests.
/// @return what CUDA says
Result<std::string> nccl_identity(driver::Cuda& cuda, int device);

}  // namespace weightcast::stream
