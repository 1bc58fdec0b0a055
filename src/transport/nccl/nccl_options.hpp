// What the nccl transport may take up, and how long it waits.
#pragma once

#include <chrono>
#include <cstdint>

#include <weightcast/types.hpp>

#include "driver/nccl.hpp"

namespace weightcast::transport {

struct NcclOptions {
  std::uint64_t bucket_bytes = std::uint64_t{64} << 20;  ///< of device memory, each
  std::uint32_t buckets = 2;             ///< that are under way at once; 1 or more
  std::uint32_t max_communicators = 4;   ///< of this GPU
  /// Whether the buffers are registered with each communicator: the same on all ranks. NCCL then
  /// copies between them itself, where two GPUs of a host see each other. Off: with 2.28.9 an engine
  /// did not outlive the abort of such a communicator (two H100, a member stopped or killed).
  bool registers = false;
  driver::NcclCommOptions communicator{};
  Duration join = std::chrono::seconds(10);     ///< for all ranks to come into a communicator
  Duration silence = std::chrono::seconds(5);   ///< in which some bucket has to come or go
  Duration leave = std::chrono::seconds(2);     ///< for a communicator to end in peace
  Duration abort = std::chrono::seconds(15);    ///< after which a GPU counts as lost to NCCL
};

}  // namespace weightcast::transport
