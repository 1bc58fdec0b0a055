// The memory that images lie in: the host's or a device's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include <weightcast/types.hpp>

#include "plan/image_plan.hpp"
#include "plan/manifest.hpp"
#include "subscriber/activation.hpp"

namespace weightcast::subscriber {

struct Fetch;
struct Following;

/// Room for one image.
/// Thread safety: read_by and read_by_any from any thread; the rest from one at a time.
class ImageBuffer {
 public:
  explicit ImageBuffer(std::span<std::byte> bytes) noexcept : bytes_(bytes) {}
  virtual ~ImageBuffer() = default;
  ImageBuffer(const ImageBuffer&) = delete;
  ImageBuffer& operator=(const ImageBuffer&) = delete;

  /// On a device these are its addresses: not for this process's own reads and writes.
  std::span<std::byte> bytes() const noexcept { return bytes_; }
  /// The accelerator whose memory it is; -1: the host's.
  virtual int device() const noexcept { return -1; }

  /// Work that is queued on a stream of the device reads the buffer. Records an event and no more.
  virtual void read_by(void* /*stream*/) noexcept {}
  /// The same, where nobody knows the stream.
  virtual void read_by_any() noexcept {}
  /// Waits until all work that was told of is over: from then on the buffer may be written to.
  /// @return kCancelled, or kUnavailable for a device that is lost
  virtual Status wait_for_readers(const std::function<bool()>& /*cancelled*/) { return Status::ok(); }

 private:
  const std::span<std::byte> bytes_;
};

/// An image that is copied to where another lies.
struct InPlaceCopy {
  const Version& version;
  const plan::Manifest& manifest;
  const plan::ImagePlan& plan;         ///< of both
  std::span<std::byte> destination;    ///< plan.image_bytes bytes each
  std::span<const std::byte> source;   ///< verified
  std::uint32_t threads = 1;           ///< of the host's
};

/// Thread safety: one thread, but for allocate() and device().
class ImageMemory {
 public:
  virtual ~ImageMemory() = default;

  /// As ImageBuffer's.
  virtual int device() const noexcept = 0;
  /// Blocks. @return kExhausted with the size
  virtual Result<std::unique_ptr<ImageBuffer>> allocate(std::uint64_t bytes) = 0;
  /// @param configured 0: as much as there is
  /// @param taken bytes that images have taken already
  virtual Result<MemoryBudget> budget(std::uint64_t configured, std::uint64_t taken) = 0;
  /// Bytes of a bucket where nothing goes over a network.
  virtual std::uint64_t bucket_bytes() const noexcept = 0;

  /// As fetch_image(), which is what it does for host memory.
  virtual Status fetch(const Fetch& fetch, std::uint32_t credit,
                       const std::function<bool()>& cancelled) = 0;
  /// Brings what its writers have finished so far and go on to finish, until all is there or
  /// `stop`. Nothing is verified.
  /// @return kUnavailable where this memory cannot; else what went wrong. Blocks until nothing is
  ///   under way any more
  virtual Status follow(const Following& /*following*/, const std::function<bool()>& /*stop*/) {
    return Status(Code::kUnavailable, "images in this memory are not read ahead");
  }
  /// Copies and compares what lies there then with its source. Passes the failpoint
  /// "engine.copying". @return kMismatch where a byte differs
  virtual Status copy(const InPlaceCopy& copy) = 0;
};

}  // namespace weightcast::subscriber
