// Runs of bytes to buckets of a bounded size.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/boxes.hpp"
#include "plan/image_plan.hpp"

namespace weightcast::plan {

/// Fills a bucket after the other, for each share on its own. Runs that are adjacent in a share and
/// in the image become one; one that does not fit is cut at a multiple of kAlignment in the share's
/// payload, so that parts of a tensor's digest can be taken of it.
/// Thread safety: none.
class BucketCutter {
 public:
  BucketCutter(std::size_t shares, std::uint64_t bucket_bytes);

  /// Whether `grid` is a whole tensor of the share and of the image; then the padding between it
  /// and a whole one before it may be copied along.
  enum class Joins { kNo, kPadding };

  /// @param element bytes of an element; it is never cut
  /// @return kExhausted where the plan would pass kMaxStrips; nothing has been added then
  Status add(std::uint32_t share, const RunGrid& grid, std::size_t element,
             Joins joins = Joins::kNo);

  /// All buckets. They go round the shares, so that all of these are read from at the same time.
  std::vector<PlannedBucket> finish();

 private:
  struct Open {
    PlannedBucket bucket;
    bool ends_whole = false;  ///< its last byte is the last one of a whole tensor
    std::vector<PlannedBucket> full;
  };

  bool is_full(const Open& open) const noexcept;
  void close(Open& open);
  void append(Open& open, const CopyStrip& strip);
  void bridge(Open& open, const CopyStrip& next);
  void place_runs(Open& open, CopyStrip strip, std::size_t element);
  void place_run(Open& open, CopyStrip run, std::size_t element);

  const std::uint64_t bucket_bytes_;
  std::uint64_t strips_ = 0;  ///< an upper bound of those made
  std::vector<Open> open_;
};

}  // namespace weightcast::plan
