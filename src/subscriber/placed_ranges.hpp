// Which bytes of a planned image are checked by the manifest's digests, which are not, and where a
// bucket's bytes go.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "plan/image_plan.hpp"
#include "plan/manifest.hpp"

namespace weightcast::subscriber {

/// Pure. All that is given outlives it.
class PlacedRanges {
 public:
  /// An entry that lies whole in the image.
  struct Whole {
    std::uint64_t target = 0;
    std::uint64_t bytes = 0;
    const plan::ShareEntry* entry = nullptr;
    std::uint32_t rank = 0;
  };

  PlacedRanges(const plan::Manifest& manifest, const plan::ImagePlan& plan);

  /// In the order of the image.
  const std::vector<Whole>& whole() const noexcept { return whole_; }
  /// Whether they are every byte of every tensor.
  bool are_all() const noexcept { return others_.empty(); }

  /// Calls each(target, bytes) for those parts of [target, target + bytes) that are of tensors and in
  /// none of the entries.
  /// @param each returns false to end early. @return whether it came to the end
  template <class Each>
  bool each_other(std::uint64_t target, std::uint64_t bytes, Each&& each) const {
    auto at = std::partition_point(others_.begin(), others_.end(),
                                   [&](const Range& range) { return range.end <= target; });
    for (; at != others_.end() && at->begin < target + bytes; ++at) {
      const std::uint64_t from = std::max(at->begin, target);
      if (!each(from, std::min(at->end, target + bytes) - from)) return false;
    }
    return true;
  }

  /// "tensor 'name'" that a byte of the image belongs to.
  std::string describe(std::uint64_t target) const;

 private:
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };

  const plan::ImagePlan& plan_;
  std::vector<Whole> whole_;
  std::vector<Range> others_;  ///< in order, apart from each other
};

/// Calls each(source, target, bytes) for the runs that bytes [at, at + bytes) of a bucket consist of,
/// or parts of them, in order. @param each returns false to end early
template <class Each>
bool each_run(const plan::PlannedBucket& bucket, std::uint64_t at, std::uint64_t bytes, Each&& each) {
  for (const plan::CopyStrip& strip : bucket.strips) {
    const std::uint64_t in_strip = strip.bytes * strip.count;
    if (at >= in_strip) {
      at -= in_strip;
      continue;
    }
    while (bytes > 0 && at < in_strip) {
      const std::uint64_t run = at / strip.bytes;
      const std::uint64_t in_run = at % strip.bytes;
      const std::uint64_t part = std::min(bytes, strip.bytes - in_run);
      if (!each(strip.source + run * strip.source_stride + in_run,
                strip.target + run * strip.target_stride + in_run, part)) {
        return false;
      }
      at += part;
      bytes -= part;
    }
    at = 0;
    if (bytes == 0) break;
  }
  return true;
}

}  // namespace weightcast::subscriber
