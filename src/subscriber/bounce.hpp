// Bytes that a lane brings to the host, on their way to a device: through a few pinned buffers.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/digest.hpp"
#include "driver/cuda.hpp"
#include "subscriber/fetch.hpp"
#include "subscriber/placed_ranges.hpp"

namespace weightcast::subscriber {

/// What the manifest has no digest for is compared: the digest of what came, by this processor, with
/// that of what was placed, by the device.
/// Thread safety: place() for different buckets from many threads at once.
class Bounce {
 public:
  static constexpr std::size_t kChunks = 4;
  static constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
  static constexpr std::size_t kRuns = 1024;  ///< of a chunk

  /// @param stream of the device, which outlives this. @return kExhausted
  static Result<std::unique_ptr<Bounce>> make(std::shared_ptr<driver::Cuda> cuda, int device,
                                              driver::Stream stream);
  ~Bounce();
  Bounce(const Bounce&) = delete;
  Bounce& operator=(const Bounce&) = delete;

  /// All that is placed from here on belongs to this; both outlive finish().
  void begin(const Fetch& fetch, const PlacedRanges& ranges);
  /// Places bytes [at, at + source.size()) of a bucket. May wait for the device to take earlier ones.
  /// After a failure it does nothing.
  void place(const plan::PlannedBucket& bucket, std::uint64_t at, std::span<const std::byte> source);
  bool failed() const noexcept { return failed_; }
  /// Waits until nothing is under way. @return the first failure; kMismatch that names the tensor
  Status finish();

 private:
  struct Chunk {
    std::byte* memory = nullptr;
    driver::Event event = nullptr;
    std::unique_ptr<driver::DigestJob> job;
    bool taken = false;      ///< by a thread, or under way
    bool under_way = false;
    bool is_compared = false;
    std::uint64_t used = 0;
    std::uint64_t placed = 0;   ///< bytes
    std::uint64_t target = 0;   ///< of the first run that is compared
    base::Digest came;
    std::uint64_t words = 0;
    std::vector<driver::CopyItem> items;
    std::vector<driver::DigestPart> parts;
  };

  Bounce(std::shared_ptr<driver::Cuda> cuda, int device, driver::Stream stream)
      : cuda_(std::move(cuda)), device_(device), stream_(stream) {}
  std::size_t room_in(const Chunk& chunk) const noexcept;
  Chunk* take();
  void add(Chunk& chunk, std::uint64_t target, std::span<const std::byte> source);
  void send(Chunk& chunk);
  /// Takes those that are over. Needs the lock.
  void collect();
  void fail(Status status);

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  const driver::Stream stream_;
  const Fetch* fetch_ = nullptr;
  const PlacedRanges* ranges_ = nullptr;
  std::mutex mutex_;  ///< of which chunks are taken, and of status_
  std::vector<Chunk> chunks_;
  Status status_;
  std::atomic<bool> failed_{false};
};

}  // namespace weightcast::subscriber
