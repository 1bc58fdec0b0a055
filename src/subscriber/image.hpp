// Versions in this process's memory: views of slots, or copies.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <weightcast/subscriber.hpp>

#include "plan/manifest.hpp"
#include "transport/transport.hpp"

namespace weightcast::subscriber {

/// Page-aligned anonymous memory.
class HostBuffer {
 public:
  /// @return kExhausted with the size
  static Result<std::unique_ptr<HostBuffer>> allocate(std::uint64_t bytes);
  ~HostBuffer();
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
  std::span<std::byte> bytes() noexcept { return {data_, size_}; }

 private:
  HostBuffer(std::byte* data, std::size_t size) : data_(data), size_(size) {}
  std::byte* data_;
  std::size_t size_;
};

/// Bounds what a subscriber holds: at most two images live at any time (what is served, and what
/// is being staged or was served before), and their buffers are used again.
/// Thread safety: all calls from any thread. Outlives the subscriber as long as images do, and then
/// removes the slots that a trainer, gone by now, left to them to hold.
class ImageRoom {
 public:
  static constexpr std::uint32_t kMaxImages = 2;

  explicit ImageRoom(std::string job) : job_(std::move(job)) {}
  ~ImageRoom();
  ImageRoom(const ImageRoom&) = delete;
  ImageRoom& operator=(const ImageRoom&) = delete;

  /// Takes a place. @return false where both are taken
  bool try_enter();
  void leave(std::unique_ptr<HostBuffer> buffer);
  /// A buffer of at least `bytes`, kept from a former image where one fits.
  Result<std::unique_ptr<HostBuffer>> buffer(std::uint64_t bytes);
  std::uint32_t images() const;

  /// Wakes whoever waits for room. Waits until woken or `until`.
  void notify();
  void wait(Deadline until);

 private:
  const std::string job_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t changes_ = 0;
  std::uint32_t images_ = 0;
  std::vector<std::unique_ptr<HostBuffer>> spare_;
};

/// The one kind of PolicyImage. Either it holds the segments that its tensors lie in, or a buffer.
class Image final : public PolicyImage {
 public:
  /// Precondition: room->try_enter() was true for this image.
  Image(std::shared_ptr<ImageRoom> room, const Version& version, const plan::Manifest& manifest);
  ~Image() override;

  void hold_segment(std::shared_ptr<transport::Segment> segment);
  void hold_buffer(std::unique_ptr<HostBuffer> buffer) { buffer_ = std::move(buffer); }
  std::span<std::byte> buffer_bytes() noexcept { return buffer_->bytes(); }

  /// Says where share number `share`'s payload lies. Call once for each share, in order.
  void place_share(const plan::Share& share, std::byte* payload);

  const Version& version() const noexcept override { return version_; }
  const std::vector<PlacedTensor>& tensors() const noexcept override { return tensors_; }
  const PlacedTensor* find(std::string_view name) const noexcept override;

 private:
  std::shared_ptr<ImageRoom> room_;
  Version version_;
  std::vector<PlacedTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> by_name_;  ///< views into tensors_
  std::vector<std::shared_ptr<transport::Segment>> segments_;
  std::unique_ptr<HostBuffer> buffer_;
};

}  // namespace weightcast::subscriber
