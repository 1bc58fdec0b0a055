// Versions in this process's memory: views of slots, or copies.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <weightcast/subscriber.hpp>

#include "plan/image_plan.hpp"
#include "plan/manifest.hpp"
#include "subscriber/host_memory.hpp"
#include "transport/transport.hpp"

namespace weightcast::subscriber {

/// Bounds what a subscriber holds: at most two images live at any time (what is served, and what
/// is being staged or was served before), and their buffers are used again.
/// Thread safety: all calls from any thread. Outlives the subscriber as long as images do, and then
/// removes the slots that a trainer, gone by now, left to them to hold.
class ImageRoom : public std::enable_shared_from_this<ImageRoom> {
 public:
  static constexpr std::uint32_t kMaxImages = 2;

  /// @param memory where all buffers lie
  explicit ImageRoom(std::string job,
                     std::shared_ptr<ImageMemory> memory = std::make_shared<HostMemory>())
      : job_(std::move(job)), memory_(std::move(memory)) {}
  ~ImageRoom();
  ImageRoom(const ImageRoom&) = delete;
  ImageRoom& operator=(const ImageRoom&) = delete;

  /// Takes a place. @return false where both are taken
  bool try_enter();
  void leave();
  std::uint32_t images() const;

  /// A buffer of at least `bytes`: a spare one where one fits. It becomes spare (again) when it is
  /// let go. Spare ones that are too small are freed. On a device, waits until work that reads what
  /// the spare one held is over.
  /// @return kExhausted, or as ImageBuffer::wait_for_readers
  Result<std::shared_ptr<ImageBuffer>> buffer(std::uint64_t bytes,
                                              const std::function<bool()>& cancelled = {});
  /// As above, but only of those that are spare already; null where there is none.
  Result<std::shared_ptr<ImageBuffer>> spare_buffer(std::uint64_t bytes,
                                                    const std::function<bool()>& cancelled);
  /// Makes sure that `count` buffers of `bytes` can be had, in use or spare.
  /// @return kExhausted; what was allocated on the way is freed
  Status reserve(std::size_t count, std::uint64_t bytes);
  /// Frees buffers that nobody uses.
  void drop_spare();
  /// Bytes of all buffers, in use and spare.
  std::uint64_t taken() const;

  ImageMemory& memory() const noexcept { return *memory_; }

  /// Wakes whoever waits for room. Waits until woken or `until`.
  void notify();
  void wait(Deadline until);

 private:
  std::shared_ptr<ImageBuffer> lend(std::unique_ptr<ImageBuffer> buffer);
  void take_back(ImageBuffer* buffer) noexcept;

  const std::string job_;
  const std::shared_ptr<ImageMemory> memory_;  ///< outlives all buffers
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t changes_ = 0;
  std::uint32_t images_ = 0;
  std::vector<std::size_t> lent_;  ///< sizes of those in use
  std::vector<std::unique_ptr<ImageBuffer>> spare_;
};

/// A share as it lies in an image, for those who read it from here.
struct ImageShare {
  std::string object;
  std::uint64_t generation = 0;
  std::span<std::byte> payload;
};

/// The one kind of PolicyImage. Either it holds the segments that its tensors lie in, or a buffer,
/// which the images of an in-place activation share one after the other.
class Image final : public PolicyImage {
 public:
  /// Precondition: room->try_enter() was true for this image.
  Image(std::shared_ptr<ImageRoom> room, const Version& version);
  ~Image() override;

  void hold_segment(std::shared_ptr<transport::Segment> segment);

  /// A view: says where each share's payload lies, in the manifest's order.
  void show(const plan::Manifest& manifest, const std::vector<std::span<std::byte>>& payloads);
  /// A copy in `buffer`, laid out by the plan.
  void fill(const plan::ImagePlan& plan, std::shared_ptr<ImageBuffer> buffer);
  /// Shares that lie here as at their sources, so that others can read them from this image. Set
  /// before the image is served.
  void offer(std::vector<ImageShare> shares) { shares_ = std::move(shares); }

  bool has_buffer() const noexcept { return buffer_ != nullptr; }
  /// As ImageBuffer's; where there is no buffer, nothing.
  void read_by(void* stream) noexcept;
  void read_by_any() noexcept;
  const std::vector<ImageShare>& shares() const noexcept { return shares_; }
  const Version& version() const noexcept override { return version_; }
  const std::vector<PlacedTensor>& tensors() const noexcept override { return tensors_; }
  const PlacedTensor* find(std::string_view name) const noexcept override;

 private:
  void add_tensor(const TensorInfo& info, std::byte* data);

  std::shared_ptr<ImageRoom> room_;
  Version version_;
  std::vector<PlacedTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> by_name_;  ///< views into tensors_
  std::vector<std::shared_ptr<transport::Segment>> segments_;
  std::shared_ptr<ImageBuffer> buffer_;
  std::vector<ImageShare> shares_;
};

/// Where the shares of a planned image lie in it as at their sources: of those whose entries are all
/// whole, and as far apart as in the share. Pure, but for the spans into `image`.
std::vector<ImageShare> shares_within(const plan::Manifest& manifest, const plan::ImagePlan& plan,
                                      std::span<std::byte> image);

}  // namespace weightcast::subscriber
