// Brings a planned image's bytes here: all shares at the same time, verified where they were placed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
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
  const std::vector<char>* there = nullptr;  ///< by bucket: whether it is there already; null: none is
};

/// A planned image that is read behind its writers.
struct Following {
  const plan::ImagePlan& plan;
  std::span<std::byte> image;
  const std::vector<std::shared_ptr<transport::Draft>>& drafts;  ///< by share; null: not this one
  std::vector<char>& there;  ///< by bucket: whether it has been read
  Duration patience;         ///< without a writer's progress
};

/// A bucket of a plan as lanes move it, but for its place().
transport::Bucket bucket_of(const plan::PlannedBucket& planned, std::span<std::byte> image);

/// Moves the plan's buckets into the image and verifies it. Passes the failpoint "engine.copying"
/// before each piece.
/// @param credit greatest number of buckets under way on a lane at once
/// @param cancelled looked at between completions
/// @return the first failure: of a lane, kMismatch that names a tensor, or kCancelled. The image's
///   bytes are then of no version. Blocks until nothing is under way any more.
Status fetch_image(const Fetch& fetch, std::uint32_t credit,
                   const std::function<bool()>& cancelled);

}  // namespace weightcast::subscriber
