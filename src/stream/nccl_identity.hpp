// How members of a job tell GPUs apart for NCCL.
#pragma once

#include <string>
#include <string_view>

#include "driver/cuda.hpp"

namespace weightcast::stream {

/// The GPU's name: two members with the same one cannot meet in a communicator. NCCL itself takes
/// processes with different values of NCCL_HOSTID for those of different hosts, so where that is set it
/// is a part of the name: several processes on one GPU can then meet, for tests.
/// @return what CUDA says
Result<std::string> nccl_identity(driver::Cuda& cuda, int device);

/// Whether NCCL takes two GPUs of one host, by their names, for such.
bool is_one_host_to_nccl(std::string_view identity, std::string_view other) noexcept;

/// Engines of the same place need one rank in a communicator between them (SessionAsk::place). On the
/// source's own host that is a GPU: between those NCCL is as fast as anything. Elsewhere it is the host,
/// which the bytes then enter once.
/// @param identity as nccl_identity() has it
std::string nccl_place(const std::string& identity, const std::string& host, bool is_sources_host);

}  // namespace weightcast::stream
