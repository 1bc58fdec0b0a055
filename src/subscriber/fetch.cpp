#include "subscriber/fetch.hpp"

#include <utility>

#include "base/failpoint.hpp"
#include "base/trace.hpp"
#include "stream/transfer.hpp"
#include "subscriber/placer.hpp"

namespace weightcast::subscriber {
namespace {

/// What all buckets of one fetch share; their callbacks hold a pointer to it.
struct Placing {
  ImagePlacer placer;
  std::uint64_t number = 0;
  std::atomic<std::uint64_t>& placed;
};

transport::Bucket to_move(const plan::PlannedBucket& planned, std::size_t index, Placing& placing,
                          std::span<std::byte> image) {
  transport::Bucket bucket = bucket_of(planned, image);
  bucket.checked_later = placing.placer.checks_all();
  bucket.place = [to = &placing, index](std::size_t at, std::span<const std::byte> source) {
    base::failpoint("engine.copying", to->number);
    to->placer.place(index, at, source);
    to->placed.fetch_add(source.size(), std::memory_order_relaxed);
  };
  return bucket;
}

}  // namespace

transport::Bucket bucket_of(const plan::PlannedBucket& planned, std::span<std::byte> image) {
  transport::Bucket bucket;
  if (planned.strips.size() == 1 && planned.strips[0].count == 1) {
    const plan::CopyStrip& strip = planned.strips[0];
    bucket.offset = strip.source;
    bucket.destination = image.subspan(strip.target, strip.bytes);
    return bucket;
  }
  bucket.strips.reserve(planned.strips.size());
  for (const plan::CopyStrip& strip : planned.strips) {
    bucket.strips.push_back({strip.source, strip.bytes, strip.count, strip.source_stride});
  }
  return bucket;
}

Status fetch_image(const Fetch& fetch, std::uint32_t credit,
                   const std::function<bool()>& cancelled) {
  Placing placing{ImagePlacer(fetch.manifest, fetch.plan, fetch.image), fetch.version.number,
                  fetch.placed};
  std::vector<stream::SegmentTransfer> transfers(fetch.shares.size());
  for (std::size_t i = 0; i < fetch.plan.buckets.size(); ++i) {
    const plan::PlannedBucket& planned = fetch.plan.buckets[i];
    transfers[planned.share].buckets.push_back(to_move(planned, i, placing, fetch.image));
  }
  std::vector<stream::SegmentTransfer> moved;
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    if (transfers[i].buckets.empty()) continue;
    transfers[i].lane = fetch.shares[i].lane;
    transfers[i].segment = fetch.shares[i].segment;
    transfers[i].awaits_peer = fetch.shares[i].awaits_peer;
    moved.push_back(std::move(transfers[i]));
  }
  if (Status status = stream::move_buckets(std::move(moved), credit, cancelled); !status) {
    return status;
  }
  const base::TraceScope span("verify", "digests of tensors", {.version = fetch.version.number});
  return placing.placer.check();
}

}  // namespace weightcast::subscriber
