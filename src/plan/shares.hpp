// Who captures what: byte-balanced shares of a replicated policy, cut at tensor borders.
#pragma once

#include <cstdint>
#include <vector>

#include <weightcast/types.hpp>

namespace weightcast::plan {

/// What a rank captures at a publish point.
struct ShareLayout {
  struct Item {
    std::uint32_t tensor = 0;  ///< index into the list of tensors
    std::uint64_t offset = 0;  ///< in the slot's payload
  };
  std::vector<Item> items;
  std::uint64_t payload_bytes = 0;
};

/// Splits `tensors` among `world_size` ranks. Pure: each rank computes the same from the same list.
/// Buffers go to rank 0, whose statistics count; parameters go to the rank with the fewest bytes so
/// far, largest first (the greedy rule of Graham, 1969: at most 4/3 of the best balance).
/// @param tensors infos as published (after casts)
/// @return one layout a rank, items in the order of the list
std::vector<ShareLayout> split_shares(const std::vector<TensorInfo>& tensors,
                                      std::uint32_t world_size);

/// A fingerprint of names, aliases, dtypes, shapes and kinds in order, by which ranks see that they
/// publish the same policy (FNV-1a, 64 bits).
std::uint64_t layout_fingerprint(const std::vector<TensorInfo>& tensors);

}  // namespace weightcast::plan
