#include "subscriber/device_buffer.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

namespace weightcast::subscriber {
namespace {

/// Readers' work is decode steps, of milliseconds.
constexpr auto kBufferLook = std::chrono::microseconds(50);

}  // namespace

Result<std::unique_ptr<ImageBuffer>> DeviceBuffer::allocate(std::shared_ptr<driver::Cuda> cuda,
                                                            int device, std::uint64_t bytes) {
  const std::uint64_t size = std::max<std::uint64_t>(bytes, 1);
  auto memory = cuda->allocate(device, size);
  if (memory.status().code() == Code::kExhausted) {
    return Status(Code::kExhausted, "no memory on device " + std::to_string(device) +
                                        " for a copy of the policy: " + std::to_string(bytes) +
                                        " bytes: " + memory.status().message());
  }
  if (!memory) return memory.status();
  std::unique_ptr<DeviceBuffer> buffer(new DeviceBuffer(
      cuda, device, {static_cast<std::byte*>(*memory), static_cast<std::size_t>(size)}));
  for (Reader& reader : buffer->readers_) {
    auto event = cuda->create_event(device, false);
    if (!event) return event.status();
    reader.event = *event;
  }
  return std::unique_ptr<ImageBuffer>(std::move(buffer));
}

DeviceBuffer::~DeviceBuffer() {
  const bool is_read = any_reads_ || std::any_of(readers_.begin(), readers_.end(),
                                                 [](const Reader& reader) { return reader.reads; });
  if (is_read) static_cast<void>(cuda_->synchronize(device_));
  for (const Reader& reader : readers_) {
    if (reader.event != nullptr) cuda_->destroy_event(device_, reader.event);
  }
  cuda_->free(device_, bytes().data());
}

DeviceBuffer::Reader* DeviceBuffer::reader_of(driver::Stream stream) noexcept {
  Reader* unused = nullptr;
  for (Reader& reader : readers_) {
    if (reader.reads && reader.stream == stream) return &reader;  // the later record says it all
    if (!reader.reads && unused == nullptr) unused = &reader;
  }
  return unused;
}

void DeviceBuffer::read_by(void* stream) noexcept {
  const std::lock_guard lock(mutex_);
  Reader* const reader = reader_of(stream);
  if (reader == nullptr || !cuda_->record(device_, reader->event, stream)) {
    any_reads_ = true;
    return;
  }
  reader->stream = stream;
  reader->reads = true;
}

void DeviceBuffer::read_by_any() noexcept {
  const std::lock_guard lock(mutex_);
  any_reads_ = true;
}

Status DeviceBuffer::wait_for_readers(const std::function<bool()>& cancelled) {
  const std::lock_guard lock(mutex_);  // no lease is out, so nobody else wants it
  if (any_reads_) {
    if (Status status = cuda_->synchronize(device_); !status) return status;
    any_reads_ = false;
    for (Reader& reader : readers_) reader.reads = false;
  }
  for (Reader& reader : readers_) {
    while (reader.reads) {
      const auto done = cuda_->done(device_, reader.event);
      if (!done) return done.status();
      if (*done) {
        reader.reads = false;
      } else if (cancelled && cancelled()) {
        return Status(Code::kCancelled, "given up while this engine's work still reads the memory");
      } else {
        std::this_thread::sleep_for(kBufferLook);
      }
    }
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
