// Who captures what: a rank's own boxes, and byte-balanced shares of what is replicated, cut at
// tensor borders.
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

/// What `rank` captures of the tensors that it lists. Its boxes of sharded tensors are its own.
/// Whole tensors, of which every rank has a copy, are split among the ranks: buffers go to rank 0,
/// whose statistics count; parameters go to the rank with the fewest bytes of whole tensors so far,
/// largest first (the greedy rule of Graham, 1969: at most 4/3 of the best balance). Pure: ranks
/// that list the same whole tensors in the same order agree on who has which, whatever their boxes
/// are.
/// @param tensors infos as published (after casts)
/// @return items in the order of the list
ShareLayout own_share(const std::vector<TensorInfo>& tensors, std::uint32_t rank,
                      std::uint32_t world_size);

/// A fingerprint of names, aliases, dtypes, whole shapes and kinds in order, by which ranks see
/// that they publish the same policy (FNV-1a, 64 bits). Which box of a sharded tensor a rank has
/// makes no difference, but that it has one does: a rank that holds nothing of it lists an empty
/// box.
std::uint64_t layout_fingerprint(const std::vector<TensorInfo>& tensors);

/// Checks the boxes of what a rank lists, on their own.
/// @return kInvalid that names the tensor
Status check_boxes(const std::vector<TensorInfo>& tensors);

}  // namespace weightcast::plan
