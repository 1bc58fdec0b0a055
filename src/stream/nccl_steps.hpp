// A share's way over NCCL: how its payload is cut into buckets, and which step each member takes for
// each of them. Both ends make this of what the manifest says, so that they never have to agree.
#pragma once

#include <cstdint>
#include <vector>

#include "transport/nccl/bucket_flow.hpp"
#include "transport/nccl/session.hpp"

namespace weightcast::stream {

/// Of each of the buffers that a GPU has for NCCL, at most.
inline constexpr std::uint64_t kMaxNcclBucket = std::uint64_t{128} << 20;

/// How large the buckets of a payload are: it has about sixteen, so that copies and wire overlap, but
/// no bucket is tiny or larger than kMaxNcclBucket. Rises with the payload. Pure, as all here.
std::uint64_t nccl_bucket_bytes(std::uint64_t payload_bytes) noexcept;

/// Bucket `i` is [i * nccl_bucket_bytes, + that) of the payload, but the last one, which ends with it.
std::uint32_t nccl_buckets(std::uint64_t payload_bytes) noexcept;

/// What both ends have to have in common (FNV-1a, 64 bits), for SessionAsk::plan.
std::uint64_t nccl_plan(std::uint64_t payload_bytes) noexcept;

/// The steps of one end of a session from bucket `first` on. With two members, which is how all
/// sessions of mode p2p are, they send and receive; with more, the source broadcasts.
/// @param rank of this end; the source is 0
std::vector<transport::FlowStep> nccl_steps(std::uint64_t payload_bytes, std::uint32_t first,
                                            int rank, int size);

/// How long members of a job wait for each other: so that an engine that dies or stops in the middle
/// of a transfer leaves the others enough of an attempt's time. Without memory's sizes.
transport::NcclOptions nccl_options() noexcept;

/// A communicator takes 8.4 MB of device memory a block of its kernels, and by NCCL's own choice it has up
/// to 32. With `broadcast` an engine is in one of each rank, with `p2p` a rank in one of each engine: where
/// there may be more than three these are slimmer, and up to eight of them are kept.
/// @param ranks that have a share of the policy
transport::SessionOptions nccl_session_options(std::uint32_t ranks, bool is_p2p) noexcept;

}  // namespace weightcast::stream
