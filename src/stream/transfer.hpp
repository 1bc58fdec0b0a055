// Moves the buckets of several segments at the same time, each over its lane, with bounded credit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "transport/transport.hpp"

namespace weightcast::stream {

/// What comes of one segment, and over which lane.
struct SegmentTransfer {
  transport::Lane* lane = nullptr;  ///< may stand in several transfers
  std::shared_ptr<transport::Segment> segment;
  std::vector<transport::Bucket> buckets;
  bool awaits_peer = false;  ///< completions may wait for a peer: the lane is aborted, and of no more
                             ///< use, where the transfer is given up with buckets under way on it
};

/// Submits the buckets of all transfers (ids are set here) and waits for every completion. All lanes
/// are under way from the beginning; on each one the transfers go in their order.
/// @param credit greatest number of buckets under way on a lane at once, at least 1
/// @param cancelled looked at between completions; true starts no more
/// @return the first failure, or kCancelled. In any case nothing is under way any more: the
///   destinations are the caller's again.
/// Blocks for as long as the lanes' completions take. Thread safety: the lanes' one thread.
Status move_buckets(std::vector<SegmentTransfer> transfers, std::uint32_t credit,
                    const std::function<bool()>& cancelled);

}  // namespace weightcast::stream
