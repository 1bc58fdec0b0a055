#include "transport/cuda_ipc/device_reader.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "transport/bucket_runs.hpp"

namespace weightcast::transport {
namespace {

constexpr std::size_t kBounceBytes = std::size_t{4} << 20;
/// A piece takes some 80 us over the bus.
constexpr auto kLookAgain = std::chrono::microseconds(20);

}  // namespace

Result<std::unique_ptr<DeviceReader>> DeviceReader::make(std::shared_ptr<driver::Cuda> cuda,
                                                         int device) {
  std::unique_ptr<DeviceReader> reader(new DeviceReader(std::move(cuda), device));
  auto stream = reader->cuda_->create_stream(device, false);
  if (!stream) return stream.status();
  reader->stream_ = *stream;
  auto event = reader->cuda_->create_event(device, false);
  if (!event) return event.status();
  reader->event_ = *event;
  auto bounce = reader->cuda_->allocate_host(kBounceBytes);
  if (!bounce) return bounce.status();
  reader->bounce_ = *bounce;
  return reader;
}

DeviceReader::~DeviceReader() {
  if (bounce_ != nullptr) cuda_->free_host(bounce_);
  if (event_ != nullptr) cuda_->destroy_event(device_, event_);
  if (stream_ != nullptr) cuda_->destroy_stream(device_, stream_);
}

Status DeviceReader::move(void* to, std::span<const std::byte> from) {
  const driver::CopyItem item{to, from.data(), from.size()};
  if (Status status = cuda_->copy(device_, {&item, 1}, stream_); !status) return status;
  if (Status status = cuda_->record(device_, event_, stream_); !status) {
    static_cast<void>(cuda_->synchronize(device_));  // the copy is under way all the same
    return status;
  }
  for (;;) {
    const auto done = cuda_->done(device_, event_);
    if (!done) {
      // Either the copy failed and is over, or the question did.
      static_cast<void>(cuda_->synchronize(device_));
      return done.status();
    }
    if (*done) return Status::ok();
    std::this_thread::sleep_for(kLookAgain);
  }
}

Status DeviceReader::read(const Bucket& bucket, std::span<const std::byte> payload,
                          const std::atomic<bool>& aborted) {
  Status status;
  each_piece(payload, bucket.offset, bucket.bytes(), bucket.strips, kBounceBytes,
             [&](std::size_t at, std::span<const std::byte> piece) {
               if (aborted.load(std::memory_order_relaxed)) {
                 status = Status(Code::kCancelled,
                                 "the lane was aborted while this bucket was being copied");
                 return false;
               }
               void* const to = bucket.place ? bounce_ : bucket.destination.data() + at;
               status = move(to, piece);
               if (status && bucket.place) {
                 bucket.place(at, {static_cast<const std::byte*>(bounce_), piece.size()});
               }
               return status.is_ok();
             });
  return status;
}

Status DeviceReaders::read(int device, const Bucket& bucket, std::span<const std::byte> payload,
                           const std::atomic<bool>& aborted) {
  std::unique_ptr<DeviceReader> reader;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(free_.begin(), free_.end(),
                                    [&](const auto& one) { return one->device() == device; });
    if (found != free_.end()) {
      reader = std::move(*found);
      free_.erase(found);
    }
  }
  if (!reader) {
    auto made = DeviceReader::make(cuda_, device);
    if (!made) return made.status();
    reader = std::move(*made);
  }
  Status status = reader->read(bucket, payload, aborted);
  // After a failure its stream is of no more use.
  if (!status && status.code() != Code::kCancelled) return status;
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(reader));
  return status;
}

}  // namespace weightcast::transport
