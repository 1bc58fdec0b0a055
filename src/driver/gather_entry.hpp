// One tensor that a device gathers and casts: what a kernel gets of it. C++17 for nvcc's sake.
#pragma once

#include <cstdint>

#include "driver/kernel_macros.hpp"

namespace weightcast::driver {

/// Dimensions that are left when those that lie together are merged.
inline constexpr int kMostDimensions = 8;

struct GatherEntry {
  unsigned char* to = nullptr;
  const unsigned char* from = nullptr;
  std::uint64_t elements = 0;
  std::uint64_t first_tile = 0;  ///< of the batch's tiles
  std::int32_t dimensions = 0;   ///< 0: contiguous
  std::int64_t sizes[kMostDimensions] = {};
  std::int64_t strides[kMostDimensions] = {};  ///< in elements
};

/// What one launch does: as much as fits in a kernel's arguments, 4 KiB.
struct GatherBatch {
  static constexpr std::int32_t kMost = 22;
  std::int32_t count = 0;
  std::uint64_t tiles = 0;
  GatherEntry entries[kMost];
};
static_assert(sizeof(GatherBatch) <= 4096 - 64, "a kernel's arguments have 4 KiB");

/// Elements of a tile, which one block does.
inline constexpr std::uint64_t kGatherTile = 8192;

/// How far element number `index` of the row-major order lies from the first, in elements.
WEIGHTCAST_ANYWHERE std::int64_t offset_of(const GatherEntry& entry, std::uint64_t index) {
  if (entry.dimensions == 0) return static_cast<std::int64_t>(index);
  std::int64_t offset = 0;
  if (entry.elements <= 0xFFFFFFFFu) {  // divisions of 32 bits take a fraction of the time
    auto rest = static_cast<std::uint32_t>(index);
    for (int d = entry.dimensions - 1; d > 0; --d) {
      const auto size = static_cast<std::uint32_t>(entry.sizes[d]);
      offset += static_cast<std::int64_t>(rest % size) * entry.strides[d];
      rest /= size;
    }
    return offset + static_cast<std::int64_t>(rest) * entry.strides[0];
  }
  for (int d = entry.dimensions - 1; d > 0; --d) {
    const auto size = static_cast<std::uint64_t>(entry.sizes[d]);
    offset += static_cast<std::int64_t>(index % size) * entry.strides[d];
    index /= size;
  }
  return offset + static_cast<std::int64_t>(index) * entry.strides[0];
}

}  // namespace weightcast::driver
