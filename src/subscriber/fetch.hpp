// Brings a planned image's bytes here: all shares at the same time, verified where they were placed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/image_plan.hpp"
#include "subscriber/sources.hpp"

namespace weightcast::subscriber {

struct Fetch {
  const Version& version;
  const plan::Manifest& manifest;
  const plan::ImagePlan& plan;
  std::span<std::byte> image;            ///< plan.image_bytes bytes
  const std::vector<OpenShare>& shares;  ///< by share; of those that the plan does not read, empty
  std::atomic<std::uint64_t>& placed;    ///< counts bytes
};

/// Moves the plan's buckets into the image and verifies it. Passes the failpoint "engine.copying"
/// before each piece.
/// @param credit greatest number of buckets under way on a lane at once
/// @param cancelled looked at between completions
/// @return the first failure: of a lane, kMismatch that names a tensor, or kCancelled. The image's
///   bytes are then of no version. Blocks until nothing is under way any more.
Status fetch_image(const Fetch& fetch, std::uint32_t credit,
                   const std::function<bool()>& cancelled);

}  // namespace weightcast::subscriber
