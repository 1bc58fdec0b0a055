#include "subscriber/image.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <exception>
#include <utility>

#include "staging/sweep.hpp"

namespace weightcast::subscriber {

Result<std::unique_ptr<HostBuffer>> HostBuffer::allocate(std::uint64_t bytes) {
  const std::size_t size = bytes == 0 ? 1 : static_cast<std::size_t>(bytes);
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return Status(Code::kExhausted,
                  "no memory for a copy of the policy: " + std::to_string(bytes) +
                      " bytes; use activation view, which needs none, or free memory");
  }
  ::madvise(data, size, MADV_HUGEPAGE);  // fewer page faults; where refused, nothing is lost
  return std::unique_ptr<HostBuffer>(new HostBuffer(static_cast<std::byte*>(data), size));
}

HostBuffer::~HostBuffer() { ::munmap(data_, size_); }

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

void ImageRoom::leave(std::unique_ptr<HostBuffer> buffer) {
  {
    const std::lock_guard lock(mutex_);
    --images_;
    if (buffer) spare_.push_back(std::move(buffer));
  }
  notify();
}

Result<std::unique_ptr<HostBuffer>> ImageRoom::buffer(std::uint64_t bytes) {
  std::vector<std::unique_ptr<HostBuffer>> too_small;  // freed without the lock
  {
    const std::lock_guard lock(mutex_);
    while (!spare_.empty()) {
      std::unique_ptr<HostBuffer> candidate = std::move(spare_.back());
      spare_.pop_back();
      if (candidate->bytes().size() >= bytes) return candidate;
      too_small.push_back(std::move(candidate));
    }
  }
  too_small.clear();
  return HostBuffer::allocate(bytes);
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

Image::Image(std::shared_ptr<ImageRoom> room, const Version& version,
             const plan::Manifest& manifest)
    : room_(std::move(room)), version_(version) {
  tensors_.reserve(manifest.tensor_count());  // by_name_ looks into it: it must not move
}

Image::~Image() {
  attachment.reset();
  segments_.clear();
  room_->leave(std::move(buffer_));
}

void Image::hold_segment(std::shared_ptr<transport::Segment> segment) {
  segments_.push_back(std::move(segment));
}

void Image::place_share(const plan::Share& share, std::byte* payload) {
  for (const plan::ShareEntry& entry : share.entries) {
    tensors_.push_back({entry.info, payload + entry.offset});
    const PlacedTensor& placed = tensors_.back();
    by_name_.emplace(placed.info.name, tensors_.size() - 1);
    for (const std::string& alias : placed.info.aliases) {
      by_name_.emplace(alias, tensors_.size() - 1);
    }
  }
}

const PlacedTensor* Image::find(std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace weightcast::subscriber
