#include "subscriber/device_memory.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/failpoint.hpp"
#include "stream/transfer.hpp"
#include "subscriber/device_buffer.hpp"

namespace weightcast::subscriber {
namespace {

/// A bucket, and a batch of copies: with more, reading behind a writer lags more; with less, the
/// time between two copies shows.
constexpr std::uint64_t kCopiedBytes = std::uint64_t{16} << 20;

/// A batch from a device's memory, where a bucket takes 8 us: batches of one would be over before the
/// thread that queues them looks again.
constexpr std::uint64_t kDeviceBatchBytes = std::uint64_t{256} << 20;

Status given_up() { return Status(Code::kCancelled, "the attempt was given up"); }

/// A share that the device copies from by itself.
struct Direct {
  const std::byte* payload = nullptr;  ///< null: it does not
  CopyWay way = CopyWay::kFromHost;
};

Direct direct_of(const OpenShare& share) {
  if (!share.segment) return {};
  if (const auto view = share.segment->device_view(); !view.empty()) {
    return {view.data(), CopyWay::kFromDevice};
  }
  return {share.segment->registered_view().data(), CopyWay::kFromHost};
}

}  // namespace

Result<std::shared_ptr<DeviceMemory>> DeviceMemory::open(std::shared_ptr<driver::Cuda> cuda,
                                                         int device) {
  const auto count = cuda->device_count();
  if (!count) return count.status();
  if (device < 0 || device >= *count) {
    return Status(Code::kInvalid, "device is " + std::to_string(device) + ": expected 0 to " +
                                      std::to_string(*count - 1) + ", of the " +
                                      std::to_string(*count) + " that this process sees; or -1, " +
                                      "for host memory");
  }
  const auto properties = cuda->properties(device);
  if (!properties) return properties.status();
  std::shared_ptr<DeviceMemory> memory(new DeviceMemory(cuda, device, properties->identity));
  auto copies = DeviceCopies::make(cuda, device);
  if (!copies) return copies.status();
  memory->copies_ = std::move(*copies);
  auto checks = DeviceChecks::make(std::move(cuda), device);
  if (!checks) return checks.status();
  memory->checks_ = std::move(*checks);
  return memory;
}

Result<std::unique_ptr<ImageBuffer>> DeviceMemory::allocate(std::uint64_t bytes) {
  return DeviceBuffer::allocate(cuda_, device_, bytes);
}

Result<MemoryBudget> DeviceMemory::budget(std::uint64_t configured, std::uint64_t taken) {
  const auto memory = cuda_->memory(device_);
  if (!memory) return memory.status();
  const std::uint64_t usable = taken + (memory->free - memory->free / 16);
  if (configured != 0 && configured <= usable) return MemoryBudget{configured, "memory_budget"};
  return MemoryBudget{usable,
                      "what device " + std::to_string(device_) + " (" + identity_ +
                          ") has free, less a sixteenth,"};
}

std::uint64_t DeviceMemory::bucket_bytes() const noexcept { return kCopiedBytes; }

// ---- from the sources -------------------------------------------------------------------------

Status DeviceMemory::fetch(const Fetch& fetch, std::uint32_t credit,
                           const std::function<bool()>& cancelled) {
  const PlacedRanges ranges(fetch.manifest, fetch.plan);
  copies_->count_in(&fetch.placed);
  Status status = copy_direct(fetch, cancelled);
  drop_waiting();  // of an attempt that was given up
  // Whatever became of it, nothing may write to the image any more.
  if (status || status.code() == Code::kCancelled) {
    if (Status finished = copies_->finish(); !finished) status = std::move(finished);
  }
  if (!status && status.code() != Code::kCancelled) copies_->drain();
  copies_->count_in(nullptr);
  if (status) status = bring_others(fetch, ranges, credit, cancelled);
  if (status) status = verify(fetch, ranges, cancelled);
  return status;
}

Status DeviceMemory::copy_direct(const Fetch& fetch, const std::function<bool()>& cancelled) {
  std::vector<Direct> directs;
  for (const OpenShare& share : fetch.shares) directs.push_back(direct_of(share));
  for (std::size_t i = 0; i < fetch.plan.buckets.size(); ++i) {
    const plan::PlannedBucket& bucket = fetch.plan.buckets[i];
    const Direct& from = directs[bucket.share];
    if (from.payload == nullptr || (fetch.there != nullptr && (*fetch.there)[i] != 0)) continue;
    if (cancelled()) return given_up();
    base::failpoint("engine.copying", fetch.version.number);
    if (Status status = copy_bucket(bucket, from.payload, from.way, fetch.image); !status) {
      return status;
    }
  }
  return send_waiting();
}

Status DeviceMemory::copy_bucket(const plan::PlannedBucket& bucket, const std::byte* source,
                                 CopyWay way, std::span<std::byte> image) {
  Status status;
  if (way != waiting_way_) status = send_waiting();
  waiting_way_ = way;
  if (!status) return status;
  each_run(bucket, 0, bucket.bytes, [&](std::uint64_t from, std::uint64_t to, std::uint64_t count) {
    waiting_.push_back({image.data() + to, source + from, count});
    waiting_bytes_ += count;
    if (waiting_.size() == DeviceCopies::kItems) status = send_waiting();
    return status.is_ok();
  });
  if (!status) return status;
  const bool is_whole = way == CopyWay::kFromHost || waiting_bytes_ >= kDeviceBatchBytes;
  return is_whole ? send_waiting() : status;
}

Status DeviceMemory::send_waiting() {
  Status status = copies_->submit(waiting_way_, waiting_, waiting_bytes_);
  drop_waiting();
  return status;
}

void DeviceMemory::drop_waiting() noexcept {
  waiting_.clear();
  waiting_bytes_ = 0;
}

Status DeviceMemory::bring_others(const Fetch& fetch, const PlacedRanges& ranges,
                                  std::uint32_t credit, const std::function<bool()>& cancelled) {
  std::vector<stream::SegmentTransfer> transfers(fetch.shares.size());
  bool any = false;
  for (std::size_t i = 0; i < fetch.plan.buckets.size(); ++i) {
    const plan::PlannedBucket& planned = fetch.plan.buckets[i];
    if (direct_of(fetch.shares[planned.share]).payload != nullptr) continue;
    if (fetch.there != nullptr && (*fetch.there)[i] != 0) continue;
    transport::Bucket bucket = bucket_of(planned, fetch.image);
    bucket.checked_later = ranges.are_all();
    bucket.place = [this, &fetch, &planned](std::size_t at, std::span<const std::byte> source) {
      base::failpoint("engine.copying", fetch.version.number);
      bounce_->place(planned, at, source);
    };
    transfers[planned.share].buckets.push_back(std::move(bucket));
    any = true;
  }
  if (!any) return Status::ok();
  if (!bounce_) {
    auto made = Bounce::make(cuda_, device_, copies_->stream(CopyWay::kFromHost));
    if (!made) return made.status();
    bounce_ = std::move(*made);
  }
  std::vector<stream::SegmentTransfer> moved;
  for (std::size_t i = 0; i < transfers.size(); ++i) {
    if (transfers[i].buckets.empty()) continue;
    transfers[i].lane = fetch.shares[i].lane;
    transfers[i].segment = fetch.shares[i].segment;
    transfers[i].awaits_peer = fetch.shares[i].awaits_peer;
    moved.push_back(std::move(transfers[i]));
  }
  bounce_->begin(fetch, ranges);
  Status status = stream::move_buckets(std::move(moved), credit,
                                       [&] { return bounce_->failed() || cancelled(); });
  Status placed = bounce_->finish();
  return placed ? status : placed;
}

Status DeviceMemory::verify(const Fetch& fetch, const PlacedRanges& ranges,
                            const std::function<bool()>& cancelled) {
  checks_->begin(ranges, fetch.image.data());
  for (const PlacedRanges::Whole& whole : ranges.whole()) {
    if (Status status = checks_->entry(whole); !status) return status;
  }
  Status status = checks_->finish();
  if (!status || ranges.are_all()) return status;
  for (const plan::PlannedBucket& bucket : fetch.plan.buckets) {
    const std::byte* const source = direct_of(fetch.shares[bucket.share]).payload;
    if (source == nullptr) continue;  // compared on its way
    if (cancelled()) return given_up();
    each_run(bucket, 0, bucket.bytes,
             [&](std::uint64_t from, std::uint64_t to, std::uint64_t count) {
               return ranges.each_other(to, count, [&](std::uint64_t at, std::uint64_t bytes) {
                 status = checks_->same(at, bytes, source + from + (at - to));
                 return status.is_ok();
               });
             });
    if (!status) return status;
  }
  return checks_->finish();
}

// ---- behind the writers -----------------------------------------------------------------------

Status DeviceMemory::follow(const Following& following, const std::function<bool()>& stop) {
  Status status = read_behind(following, stop);
  if (status || status.code() == Code::kStale) {
    if (Status finished = copies_->finish(); !finished) status = std::move(finished);
  }
  if (!status && status.code() != Code::kStale) copies_->drain();
  return status;
}

// ---- in place ---------------------------------------------------------------------------------

Status DeviceMemory::copy(const InPlaceCopy& copy) {
  Status status = copy_over(copy);
  if (status) status = copies_->finish();
  if (!status) {
    copies_->drain();
    return status;
  }
  const PlacedRanges ranges(copy.manifest, copy.plan);
  checks_->begin(ranges, copy.destination.data());
  for (const PlacedRanges::Whole& whole : ranges.whole()) {
    if (status = checks_->entry(whole); !status) return status;
  }
  ranges.each_other(0, copy.destination.size(), [&](std::uint64_t at, std::uint64_t bytes) {
    status = checks_->same(at, bytes, copy.source.data() + at);
    return status.is_ok();
  });
  return status ? checks_->finish() : status;
}

Status DeviceMemory::copy_over(const InPlaceCopy& copy) {
  for (std::uint64_t at = 0; at < copy.source.size(); at += kDeviceBatchBytes) {
    base::failpoint("engine.copying", copy.version.number);
    const driver::CopyItem item{copy.destination.data() + at, copy.source.data() + at,
                                std::min(kDeviceBatchBytes, copy.source.size() - at)};
    if (Status status = copies_->submit(CopyWay::kFromDevice, {&item, 1}, item.bytes); !status) {
      return status;
    }
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
