// Brings bytes of a device's memory to the host, or to other device memory, piece by piece.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "driver/cuda.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// A stream, an event and a pinned buffer. Thread safety: one thread at a time.
class DeviceReader {
 public:
  static Result<std::unique_ptr<DeviceReader>> make(std::shared_ptr<driver::Cuda> cuda, int device);
  ~DeviceReader();
  DeviceReader(const DeviceReader&) = delete;
  DeviceReader& operator=(const DeviceReader&) = delete;

  /// Brings a bucket of `payload` (in the device's memory). Blocks until nothing is under way any
  /// more. @param aborted ends it between two pieces
  Status read(const Bucket& bucket, std::span<const std::byte> payload,
              const std::atomic<bool>& aborted);
  int device() const noexcept { return device_; }

 private:
  DeviceReader(std::shared_ptr<driver::Cuda> cuda, int device)
      : cuda_(std::move(cuda)), device_(device) {}
  Status move(void* to, std::span<const std::byte> from);

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  driver::Stream stream_ = nullptr;
  driver::Event event_ = nullptr;
  void* bounce_ = nullptr;
};

/// Readers that wait for their next bucket. Thread safety: any thread.
class DeviceReaders {
 public:
  explicit DeviceReaders(std::shared_ptr<driver::Cuda> cuda) : cuda_(std::move(cuda)) {}
  /// As DeviceReader::read, with one that is free, or a new one.
  Status read(int device, const Bucket& bucket, std::span<const std::byte> payload,
              const std::atomic<bool>& aborted);

 private:
  const std::shared_ptr<driver::Cuda> cuda_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<DeviceReader>> free_;
};

}  // namespace weightcast::transport
