#include "transport/nccl/bucket_ring.hpp"

#include <string>
#include <utility>

#include "base/log.hpp"

namespace weightcast::transport {

BucketRing::BucketRing(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda,
                       int device, std::uint64_t bucket_bytes, std::uint32_t count)
    : nccl_(std::move(nccl)),
      cuda_(std::move(cuda)),
      device_(device),
      bucket_bytes_(bucket_bytes),
      count_(count) {}

Result<std::unique_ptr<BucketRing>> BucketRing::make(std::shared_ptr<driver::Nccl> nccl,
                                                     std::shared_ptr<driver::Cuda> cuda, int device,
                                                     std::uint64_t bucket_bytes,
                                                     std::uint32_t count, bool is_registered) {
  if (bucket_bytes == 0 || count == 0) {
    return Status(Code::kInvalid, "expected at least one bucket of at least a byte");
  }
  std::unique_ptr<BucketRing> ring(
      new BucketRing(std::move(nccl), std::move(cuda), device, bucket_bytes, count));
  const std::uint64_t bytes = bucket_bytes * count;
  Result<void*> memory = nullptr;
  if (is_registered) {
    memory = ring->nccl_->mem_alloc(device, bytes);
    ring->is_of_nccl_ = memory.is_ok();
    if (!memory) base::log(LogLevel::kInfo, "nccl_memory_refused", {{"why", memory.status().message()}});
  }
  if (!ring->is_of_nccl_) memory = ring->cuda_->allocate(device, bytes);
  if (!memory) {
    return Status(memory.status().code(),
                  "nccl needs " + std::to_string(count) + " buckets of " +
                      std::to_string(bucket_bytes) + " bytes on device " + std::to_string(device) +
                      ": " + memory.status().message());
  }
  ring->memory_ = static_cast<std::byte*>(*memory);
  return ring;
}

BucketRing::~BucketRing() {
  if (memory_ == nullptr) return;
  if (is_of_nccl_) {
    nccl_->mem_free(device_, memory_);
  } else {
    cuda_->free(device_, memory_);
  }
}

Result<driver::IpcHandle> BucketRing::exported() const {
  if (is_of_nccl_) {
    return Status(Code::kInvalid, "buckets in NCCL's own memory are not for other processes");
  }
  return cuda_->export_memory(device_, memory_);
}

}  // namespace weightcast::transport
