#include "subscriber/device_copies.hpp"

#include <chrono>
#include <thread>
#include <utility>

#include "base/trace.hpp"

namespace weightcast::subscriber {
namespace {

/// A batch takes some 0.3 ms over the bus, 0.13 ms within the device.
constexpr auto kCopiesLook = std::chrono::microseconds(50);

}  // namespace

Result<std::unique_ptr<DeviceCopies>> DeviceCopies::make(std::shared_ptr<driver::Cuda> cuda,
                                                         int device) {
  std::unique_ptr<DeviceCopies> copies(new DeviceCopies(std::move(cuda), device));
  for (driver::Stream& stream : copies->streams_) {
    auto made = copies->cuda_->create_stream(device, false);
    if (!made) return made.status();
    stream = *made;
  }
  copies->free_.reserve(kBatches);
  copies->under_way_.reserve(kBatches);
  while (copies->free_.size() < kBatches) {
    auto event = copies->cuda_->create_event(device, false);
    if (!event) return event.status();
    copies->free_.push_back(*event);
  }
  return copies;
}

DeviceCopies::~DeviceCopies() {
  for (const Batch& batch : under_way_) cuda_->destroy_event(device_, batch.event);
  for (driver::Event event : free_) cuda_->destroy_event(device_, event);
  for (driver::Stream stream : streams_) {
    if (stream != nullptr) cuda_->destroy_stream(device_, stream);
  }
}

Status DeviceCopies::poll() {
  for (std::size_t i = 0; i < under_way_.size();) {
    const auto done = cuda_->done(device_, under_way_[i].event);
    if (!done) return done.status();
    if (!*done) {
      ++i;
      continue;
    }
    const Batch& over = under_way_[i];
    const bool from_host = over.way == CopyWay::kFromHost;
    base::trace_span(from_host ? "h2d" : "d2d", "copy", over.queued, Clock::now(),
                     {.bytes = static_cast<std::int64_t>(over.bytes)});
    if (placed_ != nullptr) placed_->fetch_add(under_way_[i].bytes, std::memory_order_relaxed);
    free_.push_back(under_way_[i].event);
    under_way_.erase(under_way_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return Status::ok();
}

Status DeviceCopies::wait_for_fewer_than(std::size_t batches) {
  for (;;) {
    if (Status status = poll(); !status) return status;
    if (under_way_.size() < batches) return Status::ok();
    std::this_thread::sleep_for(kCopiesLook);
  }
}

Status DeviceCopies::submit(CopyWay way, std::span<const driver::CopyItem> items,
                            std::uint64_t bytes) {
  if (items.empty()) return Status::ok();
  if (Status status = wait_for_fewer_than(kBatches); !status) return status;
  if (Status status = cuda_->copy(device_, items, stream(way)); !status) return status;
  const driver::Event event = free_.back();
  if (Status status = cuda_->record(device_, event, stream(way)); !status) return status;
  free_.pop_back();
  under_way_.push_back({event, bytes, way, Clock::now()});
  return Status::ok();
}

Status DeviceCopies::finish() { return wait_for_fewer_than(1); }

void DeviceCopies::drain() noexcept {
  static_cast<void>(cuda_->synchronize(device_));
  for (const Batch& batch : under_way_) free_.push_back(batch.event);
  under_way_.clear();
}

Status wait_for_event(driver::Cuda& cuda, int device, driver::Event event) {
  for (;;) {
    const auto done = cuda.done(device, event);
    if (!done) return done.status();
    if (*done) return Status::ok();
    std::this_thread::sleep_for(kCopiesLook);
  }
}

}  // namespace weightcast::subscriber
