// Moves one segment's buckets over a lane with bounded credit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "transport/transport.hpp"

namespace weightcast::stream {

/// Submits `buckets` (ids are set here) and waits for every completion.
/// @param credit greatest number under way at once
/// @param cancelled looked at between completions; true starts no more
/// @return the first failure, or kCancelled. In any case nothing is under way any more: the
///   destinations are the caller's again.
/// Blocks for as long as the lane's completions take. Thread safety: the lane's one thread.
Status move_buckets(transport::Lane& lane, const std::shared_ptr<transport::Segment>& segment,
                    std::vector<transport::Bucket> buckets, std::uint32_t credit,
                    const std::function<bool()>& cancelled);

}  // namespace weightcast::stream
