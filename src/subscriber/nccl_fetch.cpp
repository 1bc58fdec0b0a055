#include "subscriber/nccl_fetch.hpp"

#include <algorithm>

#include "base/trace.hpp"
#include "subscriber/placed_ranges.hpp"

namespace weightcast::subscriber {
namespace {

/// Where the bytes of a share go.
std::vector<NcclRun> runs_of(const Fetch& fetch, std::size_t share) {
  std::vector<NcclRun> runs;
  for (const plan::PlannedBucket& bucket : fetch.plan.buckets) {
    if (bucket.share != share) continue;
    each_run(bucket, 0, bucket.bytes,
             [&](std::uint64_t from, std::uint64_t to, std::uint64_t bytes) {
               runs.push_back({from, fetch.image.data() + to, bytes});
               return true;
             });
  }
  std::sort(runs.begin(), runs.end(),
            [](const NcclRun& x, const NcclRun& y) { return x.source < y.source; });
  return runs;
}

}  // namespace

std::string why_no_nccl(const plan::Manifest& manifest, const plan::ImagePlan& plan) {
  if (!PlacedRanges(manifest, plan).are_all()) {
    return "this engine takes slices of tensors, which have no digest to be checked by";
  }
  // With an entry in two places, one of its bytes goes to both.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> entries;
  for (const plan::WholeEntry& entry : plan.whole) entries.emplace_back(entry.share, entry.entry);
  std::sort(entries.begin(), entries.end());
  if (std::adjacent_find(entries.begin(), entries.end()) != entries.end()) {
    return "this engine's layout has a tensor twice";
  }
  return {};
}

Status fetch_over_nccl(NcclLane& lane, const Fetch& fetch, const std::vector<ShareSource>& sources,
                       std::vector<char>& there, const std::function<bool()>& cancelled) {
  for (std::size_t i = 0; i < sources.size(); ++i) {
    if (sources[i].transport != TransportChoice::kNccl || fetch.plan.share_bytes[i] == 0) continue;
    const base::TraceScope span("stage", "nccl",
                                {.version = fetch.version.number,
                                 .bytes = static_cast<std::int64_t>(fetch.plan.share_bytes[i]),
                                 .rank = fetch.manifest.shares[i].rank});
    const NcclShare share{sources[i].address, sources[i].is_near, runs_of(fetch, i), [&](std::uint64_t bytes) {
                            fetch.placed.fetch_add(bytes, std::memory_order_relaxed);
                          }};
    if (Status s = lane.bring(share, cancelled); !s) return s;
    for (std::size_t b = 0; b < there.size(); ++b) {
      if (fetch.plan.buckets[b].share == i) there[b] = 1;
    }
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
