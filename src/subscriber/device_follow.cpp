// Reading behind the writers of a version into a device's memory.
#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "subscriber/device_memory.hpp"

namespace weightcast::subscriber {
namespace {

constexpr auto kFollowLook = std::chrono::microseconds(100);

/// One share's buckets in the order in which they become readable.
struct Trail {
  struct Piece {
    std::size_t bucket = 0;
    std::uint64_t end = 0;  ///< in the share's payload
  };
  std::vector<Piece> pieces;
  std::size_t next = 0;
};

std::uint64_t end_of(const plan::PlannedBucket& bucket) {
  std::uint64_t end = 0;
  for (const plan::CopyStrip& strip : bucket.strips) {
    end = std::max(end, strip.source + (strip.count - 1) * strip.source_stride + strip.bytes);
  }
  return end;
}

std::vector<Trail> trails_of(const Following& following) {
  std::vector<Trail> trails(following.drafts.size());
  for (std::size_t i = 0; i < following.plan.buckets.size(); ++i) {
    const plan::PlannedBucket& bucket = following.plan.buckets[i];
    if (!following.drafts[bucket.share] || following.there[i] != 0) continue;
    trails[bucket.share].pieces.push_back({i, end_of(bucket)});
  }
  for (Trail& trail : trails) {
    std::sort(trail.pieces.begin(), trail.pieces.end(),
              [](const auto& x, const auto& y) { return x.end < y.end; });
  }
  return trails;
}

}  // namespace

Status DeviceMemory::read_behind(const Following& following, const std::function<bool()>& stop) {
  std::vector<Trail> trails = trails_of(following);
  auto progress = Clock::now();
  while (!stop()) {
    bool is_complete = true;
    bool moved = false;
    for (std::size_t share = 0; share < trails.size(); ++share) {
      Trail& trail = trails[share];
      if (trail.next == trail.pieces.size()) continue;
      is_complete = false;
      transport::Draft& draft = *following.drafts[share];
      const auto written = draft.written();
      if (!written) return Status(Code::kStale, "the slot is being written anew");
      const Trail::Piece& piece = trail.pieces[trail.next];
      if (piece.end > *written) continue;
      if (Status status = copy_bucket(following.plan.buckets[piece.bucket],
                                      draft.registered_view().data(), CopyWay::kFromHost,
                                      following.image);
          !status) {
        return status;
      }
      following.there[piece.bucket] = 1;
      ++trail.next;
      moved = true;
    }
    if (is_complete) break;
    if (moved) {
      progress = Clock::now();
      continue;
    }
    if (Clock::now() - progress > following.patience) break;
    if (Status status = copies_->poll(); !status) return status;
    std::this_thread::sleep_for(kFollowLook);
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
