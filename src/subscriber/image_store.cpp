#include "subscriber/image_store.hpp"

#include <utility>

namespace weightcast::subscriber {
namespace {

class LentShare final : public transport::Segment {
 public:
  LentShare(std::shared_ptr<Image> image, std::span<std::byte> payload, std::shared_ptr<void> ticket)
      : ticket_(std::move(ticket)), image_(std::move(image)), payload_(payload) {}
  std::span<std::byte> view() noexcept override { return payload_; }

 private:
  std::shared_ptr<void> ticket_;  ///< ends after the image is let go, as a lease's
  std::shared_ptr<Image> image_;
  std::span<std::byte> payload_;
};

}  // namespace

void ImageStore::serve(std::weak_ptr<Image> image) {
  const std::lock_guard lock(mutex_);
  image_ = std::move(image);
}

Result<std::shared_ptr<transport::Segment>> ImageStore::hold(
    const transport::SegmentAddress& address) {
  std::shared_ptr<Image> image;
  std::shared_ptr<void> ticket;
  {
    const std::lock_guard lock(mutex_);
    image = image_.lock();
    if (image) ticket = leases_->open(image->version(), Clock::now());
  }
  if (!image || image->version() != address.version) {
    return Status(Code::kStale, "this engine serves " +
                                    (image ? "version " + to_string(image->version())
                                           : std::string("nothing that it lends")) +
                                    ", not version " + to_string(address.version) +
                                    "; ask for the newest one");
  }
  for (const ImageShare& share : image->shares()) {
    if (share.object != address.object || share.generation != address.generation) continue;
    if (share.payload.size() != address.payload_bytes) break;
    return std::shared_ptr<transport::Segment>(
        std::make_shared<LentShare>(std::move(image), share.payload, std::move(ticket)));
  }
  return Status(Code::kNotFound, "this engine does not hold share " + address.object +
                                     " as its source does; read it from the source");
}

}  // namespace weightcast::subscriber
