// An image's room in a device's memory, and who still reads there.
#pragma once

#include <array>
#include <memory>
#include <mutex>

#include "driver/cuda.hpp"
#include "subscriber/image_memory.hpp"

namespace weightcast::subscriber {

/// Remembers the last work of each stream that was told of; of more streams than kStreams, that any
/// may read. A stream must not be destroyed before its work of that kind is over.
class DeviceBuffer final : public ImageBuffer {
 public:
  static constexpr std::size_t kStreams = 16;

  /// @return kExhausted with the size, or what the device says
  static Result<std::unique_ptr<ImageBuffer>> allocate(std::shared_ptr<driver::Cuda> cuda,
                                                       int device, std::uint64_t bytes);
  /// Waits for the readers: memory that work still reads is not freed.
  ~DeviceBuffer() override;

  int device() const noexcept override { return device_; }
  void read_by(void* stream) noexcept override;
  void read_by_any() noexcept override;
  Status wait_for_readers(const std::function<bool()>& cancelled) override;

 private:
  struct Reader {
    driver::Event event = nullptr;
    driver::Stream stream = nullptr;
    bool reads = false;
  };

  DeviceBuffer(std::shared_ptr<driver::Cuda> cuda, int device, std::span<std::byte> bytes)
      : ImageBuffer(bytes), cuda_(std::move(cuda)), device_(device) {}
  Reader* reader_of(driver::Stream stream) noexcept;

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  std::mutex mutex_;
  std::array<Reader, kStreams> readers_;
  bool any_reads_ = false;
};

}  // namespace weightcast::subscriber
