#include "subscriber/image.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "staging/sweep.hpp"

namespace weightcast::subscriber {

ImageRoom::~ImageRoom() {
  try {
    staging::sweep(job_);
  } catch (const std::exception&) {
    // No memory to list them: the next start of the job does it.
  }
}

bool ImageRoom::try_enter() {
  const std::lock_guard lock(mutex_);
  if (images_ >= kMaxImages) return false;
  ++images_;
  return true;
}

void ImageRoom::leave() {
  {
    const std::lock_guard lock(mutex_);
    --images_;
  }
  notify();
}

Result<std::shared_ptr<ImageBuffer>> ImageRoom::spare_buffer(
    std::uint64_t bytes, const std::function<bool()>& cancelled) {
  std::vector<std::unique_ptr<ImageBuffer>> too_small;  // freed without the lock
  std::unique_ptr<ImageBuffer> found;
  {
    const std::lock_guard lock(mutex_);
    while (!spare_.empty() && !found) {
      std::unique_ptr<ImageBuffer> candidate = std::move(spare_.back());
      spare_.pop_back();
      if (candidate->bytes().size() >= bytes) {
        found = std::move(candidate);
      } else {
        too_small.push_back(std::move(candidate));
      }
    }
  }
  too_small.clear();
  if (!found) return std::shared_ptr<ImageBuffer>();
  auto buffer = lend(std::move(found));
  if (Status status = buffer->wait_for_readers(cancelled); !status) return status;
  return buffer;
}

Result<std::shared_ptr<ImageBuffer>> ImageRoom::buffer(std::uint64_t bytes,
                                                       const std::function<bool()>& cancelled) {
  auto spare = spare_buffer(bytes, cancelled);
  if (!spare || *spare) return spare;
  auto allocated = memory_->allocate(bytes);
  if (!allocated) return allocated.status();
  return lend(std::move(*allocated));
}

std::shared_ptr<ImageBuffer> ImageRoom::lend(std::unique_ptr<ImageBuffer> buffer) {
  {
    const std::lock_guard lock(mutex_);
    lent_.push_back(buffer->bytes().size());
    spare_.reserve(spare_.size() + lent_.size());  // so that taking it back cannot fail
  }
  return {buffer.release(),
          [room = shared_from_this()](ImageBuffer* back) { room->take_back(back); }};
}

void ImageRoom::take_back(ImageBuffer* buffer) noexcept {
  {
    const std::lock_guard lock(mutex_);
    const auto size = std::find(lent_.begin(), lent_.end(), buffer->bytes().size());
    if (size != lent_.end()) lent_.erase(size);
    spare_.emplace_back(buffer);
  }
  notify();
}

Status ImageRoom::reserve(std::size_t count, std::uint64_t bytes) {
  const auto fits = [&](std::size_t size) { return size >= bytes; };
  std::size_t there = 0;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(spare_, [&](const auto& buffer) { return !fits(buffer->bytes().size()); });
    there = spare_.size() +
            static_cast<std::size_t>(std::count_if(lent_.begin(), lent_.end(), fits));
  }
  std::vector<std::unique_ptr<ImageBuffer>> fresh;
  for (; there < count; ++there) {
    auto allocated = memory_->allocate(bytes);
    if (!allocated) return allocated.status();
    fresh.push_back(std::move(*allocated));
  }
  const std::lock_guard lock(mutex_);
  for (auto& buffer : fresh) spare_.push_back(std::move(buffer));
  return Status::ok();
}

void ImageRoom::drop_spare() {
  std::vector<std::unique_ptr<ImageBuffer>> freed;  // without the lock
  const std::lock_guard lock(mutex_);
  freed.swap(spare_);
}

std::uint64_t ImageRoom::taken() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const std::size_t size : lent_) sum += size;
  for (const auto& buffer : spare_) sum += buffer->bytes().size();
  return sum;
}

std::uint32_t ImageRoom::images() const {
  const std::lock_guard lock(mutex_);
  return images_;
}

void ImageRoom::notify() {
  {
    const std::lock_guard lock(mutex_);
    ++changes_;
  }
  changed_.notify_all();
}

void ImageRoom::wait(Deadline until) {
  std::unique_lock lock(mutex_);
  const std::uint64_t before = changes_;
  changed_.wait_until(lock, until, [&] { return changes_ != before; });
}

Image::Image(std::shared_ptr<ImageRoom> room, const Version& version)
    : room_(std::move(room)), version_(version) {}

Image::~Image() {
  attachment.reset();
  segments_.clear();
  buffer_.reset();
  room_->leave();
}

void Image::hold_segment(std::shared_ptr<transport::Segment> segment) {
  segments_.push_back(std::move(segment));
}

void Image::read_by(void* stream) noexcept {
  if (buffer_) buffer_->read_by(stream);
}

void Image::read_by_any() noexcept {
  if (buffer_) buffer_->read_by_any();
}

void Image::add_tensor(const TensorInfo& info, std::byte* data) {
  tensors_.push_back({info, data, buffer_ ? buffer_->device() : -1});
  const PlacedTensor& placed = tensors_.back();
  by_name_.emplace(placed.info.name, tensors_.size() - 1);
  for (const std::string& alias : placed.info.aliases) {
    by_name_.emplace(alias, tensors_.size() - 1);
  }
}

void Image::show(const plan::Manifest& manifest,
                 const std::vector<std::span<std::byte>>& payloads) {
  tensors_.reserve(manifest.tensor_count());  // by_name_ looks into it: it must not move
  for (std::size_t i = 0; i < manifest.shares.size(); ++i) {
    const plan::Share& share = manifest.shares[i];
    for (const plan::ShareEntry& entry : share.entries) {
      add_tensor(entry.info, payloads[i].data() + entry.offset);
    }
    shares_.push_back({share.object, share.generation, payloads[i].first(share.payload_bytes)});
  }
}

void Image::fill(const plan::ImagePlan& plan, std::shared_ptr<ImageBuffer> buffer) {
  buffer_ = std::move(buffer);
  tensors_.reserve(plan.tensors.size());  // as above
  for (const plan::ImageTensor& tensor : plan.tensors) {
    add_tensor(tensor.info, buffer_->bytes().data() + tensor.offset);
  }
}

const PlacedTensor* Image::find(std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::vector<ImageShare> shares_within(const plan::Manifest& manifest, const plan::ImagePlan& plan,
                                      std::span<std::byte> image) {
  struct Found {
    std::uint64_t base = 0;
    std::size_t entries = 0;
    bool fits = true;
  };
  std::vector<Found> found(manifest.shares.size());
  for (const plan::WholeEntry& whole : plan.whole) {
    const std::uint64_t offset = manifest.shares[whole.share].entries[whole.entry].offset;
    Found& share = found[whole.share];
    const std::uint64_t base = whole.target - offset;  // a wrapped one is refused below
    share.fits = share.fits && whole.target >= offset && (share.entries == 0 || base == share.base);
    share.base = base;
    ++share.entries;
  }
  std::vector<ImageShare> shares;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const plan::Share& share = manifest.shares[i];
    if (!found[i].fits || found[i].entries != share.entries.size()) continue;
    if (found[i].base > image.size() || share.payload_bytes > image.size() - found[i].base) continue;
    shares.push_back(
        {share.object, share.generation, image.subspan(found[i].base, share.payload_bytes)});
  }
  return shares;
}

}  // namespace weightcast::subscriber
