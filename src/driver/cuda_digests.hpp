#pragma once

#include <memory>

#include "driver/cuda.hpp"
#include "driver/cuda_contexts.hpp"

namespace weightcast::driver {

/// @param contexts outlives the job
Result<std::unique_ptr<DigestJob>> make_cuda_digests(Contexts& contexts, int device,
                                                     int multiprocessors, std::size_t max_parts,
                                                     std::size_t max_sums);

}  // namespace weightcast::driver
