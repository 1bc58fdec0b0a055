// Checks what is to be gathered and cuts it into launches.
#pragma once

#include <functional>
#include <span>

#include <weightcast/types.hpp>

#include "driver/cuda.hpp"
#include "driver/gather_entry.hpp"

namespace weightcast::driver {

/// @return kInvalid for casts of integers, strides and shapes that do not fit, and more than
/// kMostDimensions dimensions that do not lie together
Result<GatherEntry> gather_entry(const GatherItem& item);

/// All items, in batches of one pair of types each. Nothing is launched where one is kInvalid.
/// @param launch does a batch; the first that fails ends it
Status gather_in_batches(
    std::span<const GatherItem> items,
    const std::function<Status(const GatherBatch&, DType to, DType from)>& launch);

}  // namespace weightcast::driver
