// The shares of a version that come over NCCL.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "subscriber/fetch.hpp"
#include "subscriber/nccl_lane.hpp"
#include "subscriber/sources.hpp"

namespace weightcast::subscriber {

/// Why a planned image cannot come over NCCL; empty: it can. What NCCL carries has no digest of its
/// own, so every byte has to be one that a digest of the manifest says something of. Pure.
std::string why_no_nccl(const plan::Manifest& manifest, const plan::ImagePlan& plan);

/// Brings those shares whose source is nccl, one after the other by rank, as every engine does.
/// @param there by bucket of the plan: set for those that have come
/// @return as NcclLane::bring. What has not been marked is to be brought by another way. Blocks as that
///   does
Status fetch_over_nccl(NcclLane& lane, const Fetch& fetch, const std::vector<ShareSource>& sources,
                       std::vector<char>& there, const std::function<bool()>& cancelled);

}  // namespace weightcast::subscriber
