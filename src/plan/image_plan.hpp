// From a manifest and what an engine wants to the buckets that bring exactly that: which bytes of
// which share go where in the engine's image.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/manifest.hpp"

namespace weightcast::plan {

/// Limits of a plan, whatever a manifest says: of all its strips, and of those of a bucket.
inline constexpr std::uint64_t kMaxStrips = 1u << 22;
inline constexpr std::size_t kMaxBucketStrips = 4096;

/// `count` runs of `bytes` bytes: from a share's payload to the image.
struct CopyStrip {
  std::uint64_t source = 0;  ///< first byte of the first run in the share's payload
  std::uint64_t target = 0;  ///< and in the image
  std::uint64_t bytes = 0;
  std::uint64_t count = 1;
  std::uint64_t source_stride = 0;  ///< from one run's start to the next one's; 0 where count is 1
  std::uint64_t target_stride = 0;
  bool operator==(const CopyStrip&) const = default;
};

/// Bytes that move as one unit, all of one share.
struct PlannedBucket {
  std::uint32_t share = 0;
  std::vector<CopyStrip> strips;  ///< in this order they are the bucket's bytes
  std::uint64_t bytes = 0;
};

/// A tensor of the image, contiguous.
struct ImageTensor {
  TensorInfo info;           ///< whole (no box)
  std::uint64_t offset = 0;  ///< in the image, a multiple of kAlignment
};

/// An entry of the manifest (a whole tensor or a box) that is read from there and lies whole and
/// contiguous in the image: its digest can be checked there. Where a layout places it twice there
/// are two.
struct WholeEntry {
  std::uint32_t share = 0;
  std::uint32_t entry = 0;
  std::uint64_t target = 0;  ///< its first byte in the image
};

struct ImagePlan {
  std::vector<ImageTensor> tensors;  ///< in the order of shares and their entries, or of the layout
  std::uint64_t image_bytes = 0;     ///< a multiple of kAlignment
  std::vector<PlannedBucket> buckets;  ///< none is empty; they go round the shares
  std::vector<WholeEntry> whole;
  std::vector<std::uint64_t> share_bytes;  ///< by share: how much of it is read
};

/// How large buckets are, and why.
struct BucketSize {
  std::uint64_t bytes = 0;
  std::string reason;  ///< for logs and status
};

/// What buckets are sized by. A measured rate of 0 is an unknown one.
struct BucketNeeds {
  std::uint64_t wanted_bytes = 0;  ///< of the version, by this engine
  std::uint64_t budget_bytes = 0;  ///< memory for buckets under way; 0: no limit
  std::uint32_t under_way = 4;     ///< buckets at once
  double bytes_per_second = 0;     ///< of the link
  double round_trip_seconds = 0;   ///< from a request to its first byte
};

/// Pure. A bucket's time on the link outweighs the round trip, a version has enough buckets to
/// overlap, and those under way fit the budget.
BucketSize size_buckets(const BucketNeeds& needs);

/// Plans an image of the whole policy (`layout` empty; sharded tensors are put together) or of what
/// the layout says. Where several shares hold the same box, the one of which least is read gives
/// it. Without a layout and boxes the image is the shares' payloads one after the other, each
/// beginning at a multiple of kAlignment; buckets may then bring the padding between tensors too.
/// Runs are cut at multiples of kAlignment in the payload, and so at whole words of digests, where
/// buckets are larger. Pure; takes time linear in tensors, pieces times the boxes of their tensor,
/// and strips.
/// @param manifest has passed check_manifest
/// @param bucket_bytes greatest size of a bucket, if an element fits into it; strips are cut to fit
/// @return kMismatch that names the tensor where the layout wants what the policy does not have
///   (name, shape, number of dimensions); kInvalid for a layout that contradicts itself; kExhausted
///   where it would take more than kMaxStrips
Result<ImagePlan> plan_image(const Manifest& manifest, const Layout& layout,
                             std::uint64_t bucket_bytes);

}  // namespace weightcast::plan
