// The kernels' launches, for cuda_runtime.cpp: plain types, so that nvcc sees little of the tree.
// Each returns a cudaError_t and queues on a stream of the current context.
#pragma once

#include <cstdint>

#include "driver/digest_tile.hpp"
#include "driver/gather_entry.hpp"

namespace weightcast::driver {

/// Blocks of the digest kernel for each multiprocessor; all of them run at once.
inline constexpr int kDigestBlocks = 6;

/// Adds the digests of all tiles to `sums`, device memory.
/// @param entries device memory; in the order of their first tiles
int launch_digest(const DigestEntry* entries, std::uint32_t count, std::uint64_t tiles,
                  std::uint64_t tile_bytes, DigestSum* sums, int multiprocessors, void* stream);

/// What the elements are, by how they become f32; the last four are moved only, by their size.
enum class Element : std::uint8_t { kF64, kF32, kF16, kBF16, kRaw1, kRaw2, kRaw4, kRaw8 };

/// @param to as `from` where that is raw
int launch_gather(const GatherBatch& batch, Element to, Element from, void* stream);

}  // namespace weightcast::driver
