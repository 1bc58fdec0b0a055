// Images in this process's own memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "subscriber/image_memory.hpp"

namespace weightcast::subscriber {

/// Page-aligned anonymous memory.
class HostBuffer final : public ImageBuffer {
 public:
  /// @return kExhausted with the size
  static Result<std::unique_ptr<ImageBuffer>> allocate(std::uint64_t bytes);
  ~HostBuffer() override;

 private:
  using ImageBuffer::ImageBuffer;
};

class HostMemory final : public ImageMemory {
 public:
  int device() const noexcept override { return -1; }
  Result<std::unique_ptr<ImageBuffer>> allocate(std::uint64_t bytes) override {
    return HostBuffer::allocate(bytes);
  }
  Result<MemoryBudget> budget(std::uint64_t configured, std::uint64_t taken) override;
  std::uint64_t bucket_bytes() const noexcept override;
  Status fetch(const Fetch& fetch, std::uint32_t credit,
               const std::function<bool()>& cancelled) override;
  Status copy(const InPlaceCopy& copy) override;
};

/// Copies `source` over `destination` (of equal size) and compares what lies there with it, piece by
/// piece and by up to `threads` threads. Passes the failpoint "engine.copying" between copying and
/// comparing a piece. @return kMismatch where a byte differs
Status copy_and_compare(std::span<std::byte> destination, std::span<const std::byte> source,
                        std::uint32_t threads, std::uint64_t number);

}  // namespace weightcast::subscriber
