#include "transport/nccl/bucket_ring.hpp"

#include <string>
#include <utility>

#include "base/log.hpp"

namespace weightcast::transport {

BucketRing::BucketRing(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda,
                       int device, std::uint64_t bucket_bytes)
    : nccl_(std::move(nccl)), cuda_(std::move(cuda)), device_(device), bucket_bytes_(bucket_bytes) {}

Result<std::unique_ptr<BucketRing>> BucketRing::make(std::shared_ptr<driver::Nccl> nccl,
                                                     std::shared_ptr<driver::Cuda> cuda, int device,
                                                     std::uint64_t bucket_bytes,
                                                     std::uint32_t count) {
  if (bucket_bytes == 0 || count == 0) {
    return Status(Code::kInvalid, "expected at least one bucket of at least a byte");
  }
  std::unique_ptr<BucketRing> ring(
      new BucketRing(std::move(nccl), std::move(cuda), device, bucket_bytes));
  for (std::uint32_t i = 0; i < count; ++i) {
    auto memory = ring->nccl_->mem_alloc(device, bucket_bytes);
    const bool is_of_nccl = memory.is_ok();
    if (!is_of_nccl) {
      base::log(LogLevel::kInfo, "nccl_memory_refused", {{"why", memory.status().message()}});
      memory = ring->cuda_->allocate(device, bucket_bytes);
    }
    if (!memory) {
      return Status(memory.status().code(),
                    "nccl needs " + std::to_string(count) + " buckets of " +
                        std::to_string(bucket_bytes) + " bytes on device " +
                        std::to_string(device) + ": " + memory.status().message());
    }
    ring->buckets_.push_back({static_cast<std::byte*>(*memory), is_of_nccl});
  }
  return ring;
}

BucketRing::~BucketRing() {
  for (const Buffer& buffer : buckets_) {
    if (buffer.is_of_nccl) {
      nccl_->mem_free(device_, buffer.memory);
    } else {
      cuda_->free(device_, buffer.memory);
    }
  }
}

}  // namespace weightcast::transport
