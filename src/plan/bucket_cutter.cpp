#include "plan/bucket_cutter.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

namespace weightcast::plan {
namespace {

// How much of a run goes into the room that is left; 0: the bucket is better closed.
std::uint64_t cut(const CopyStrip& run, std::uint64_t room, bool is_bucket_empty,
                  std::size_t element) {
  if (run.bytes <= room) return run.bytes;
  const std::uint64_t end = (run.source + room) / kAlignment * kAlignment;
  if (end > run.source) return end - run.source;
  if (!is_bucket_empty) return 0;
  // Buckets of less than a cache line.
  return std::max<std::uint64_t>(element, room / element * element);
}

}  // namespace

BucketCutter::BucketCutter(std::size_t shares, std::uint64_t bucket_bytes)
    : bucket_bytes_(bucket_bytes), open_(shares) {
  for (std::size_t i = 0; i < shares; ++i) {
    open_[i].bucket.share = static_cast<std::uint32_t>(i);
  }
}

bool BucketCutter::is_full(const Open& open) const noexcept {
  return open.bucket.bytes >= bucket_bytes_ || open.bucket.strips.size() >= kMaxBucketStrips;
}

void BucketCutter::close(Open& open) {
  PlannedBucket next;
  next.share = open.bucket.share;
  open.full.push_back(std::exchange(open.bucket, std::move(next)));
}

void BucketCutter::append(Open& open, const CopyStrip& strip) {
  PlannedBucket& bucket = open.bucket;
  bucket.bytes += strip.bytes * strip.count;
  if (!bucket.strips.empty() && strip.count == 1) {
    CopyStrip& last = bucket.strips.back();
    if (last.count == 1 && last.source + last.bytes == strip.source &&
        last.target + last.bytes == strip.target) {
      last.bytes += strip.bytes;
      return;
    }
  }
  bucket.strips.push_back(strip);
  if (strip.count == 1) {
    bucket.strips.back().source_stride = 0;
    bucket.strips.back().target_stride = 0;
  }
}

void BucketCutter::bridge(Open& open, const CopyStrip& next) {
  if (!open.ends_whole || open.bucket.strips.empty()) return;
  CopyStrip& last = open.bucket.strips.back();
  const std::uint64_t gap = next.source - (last.source + last.bytes);
  // Where next lies before last this is huge.
  if (last.count != 1 || gap >= kAlignment || gap != next.target - (last.target + last.bytes))
    return;
  if (open.bucket.bytes + gap + std::min(next.bytes, kAlignment) > bucket_bytes_) return;
  last.bytes += gap;
  open.bucket.bytes += gap;
}

void BucketCutter::place_run(Open& open, CopyStrip run, std::size_t element) {
  while (run.bytes > 0) {
    if (is_full(open)) close(open);
    const std::uint64_t room = bucket_bytes_ - open.bucket.bytes;
    const std::uint64_t part = cut(run, room, open.bucket.bytes == 0, element);
    if (part == 0) {
      close(open);
      continue;
    }
    append(open, {run.source, run.target, part, 1, 0, 0});
    run.source += part;
    run.target += part;
    run.bytes -= part;
  }
}

void BucketCutter::place_runs(Open& open, CopyStrip strip, std::size_t element) {
  while (strip.count > 0) {
    if (is_full(open)) close(open);
    const std::uint64_t fit = (bucket_bytes_ - open.bucket.bytes) / strip.bytes;
    const std::uint64_t runs = std::clamp<std::uint64_t>(fit, 1, strip.count);
    CopyStrip part = strip;
    part.count = runs;
    if (fit > 0) {
      append(open, part);
    } else {
      place_run(open, part, element);
    }
    strip.source += runs * strip.source_stride;
    strip.target += runs * strip.target_stride;
    strip.count -= runs;
  }
}

Status BucketCutter::add(std::uint32_t share, const RunGrid& grid, std::size_t element,
                         Joins joins) {
  // A bucket's end makes three strips of one at most: the runs before it and two parts of a run. It
  // comes up to kAlignment bytes early.
  const std::uint64_t least = bucket_bytes_ > 2 * kAlignment ? bucket_bytes_ - kAlignment : 1;
  const std::uint64_t cuts = 2 * (grid.bytes() / least + 1);
  if (grid.strips() > kMaxStrips || cuts > kMaxStrips ||
      strips_ + grid.strips() + cuts > kMaxStrips) {
    return {Code::kExhausted, "expected an image that at most " + std::to_string(kMaxStrips) +
                                  " strips of bytes bring, got one that takes more in buckets of " +
                                  std::to_string(bucket_bytes_) + " bytes; make buckets larger"};
  }
  strips_ += grid.strips() + cuts;

  Open& open = open_[share];
  CopyStrip strip{grid.source, grid.target, grid.run, 1, 0, 0};
  if (grid.depth > 0) {
    strip.count = grid.axes[0].count;
    strip.source_stride = grid.axes[0].source_stride;
    strip.target_stride = grid.axes[0].target_stride;
  }
  if (joins == Joins::kPadding) bridge(open, strip);
  std::array<std::uint64_t, kMaxDims> index{};
  for (std::size_t axis = 1;;) {
    place_runs(open, strip, element);
    for (axis = 1; axis < grid.depth; ++axis) {
      const RunGrid::Axis& along = grid.axes[axis];
      strip.source += along.source_stride;
      strip.target += along.target_stride;
      if (++index[axis] < along.count) break;
      strip.source -= along.count * along.source_stride;
      strip.target -= along.count * along.target_stride;
      index[axis] = 0;
    }
    if (axis >= grid.depth) break;
  }
  open.ends_whole = joins == Joins::kPadding;
  return Status::ok();
}

std::vector<PlannedBucket> BucketCutter::finish() {
  std::vector<Open*> left;
  for (Open& open : open_) {
    if (open.bucket.bytes > 0) close(open);
    if (!open.full.empty()) left.push_back(&open);
  }
  std::vector<PlannedBucket> buckets;
  for (std::size_t round = 0; !left.empty(); ++round) {
    for (Open* open : left) buckets.push_back(std::move(open->full[round]));
    std::erase_if(left, [&](const Open* open) { return open->full.size() == round + 1; });
  }
  return buckets;
}

}  // namespace weightcast::plan
