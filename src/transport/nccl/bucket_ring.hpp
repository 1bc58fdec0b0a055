// Device memory that buckets go through, taken once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "driver/cuda.hpp"
#include "driver/nccl.hpp"

namespace weightcast::transport {

/// Thread safety: one thread.
class BucketRing {
 public:
  /// From NCCL, which can transfer out of its own memory without a copy, or where it refuses, from
  /// CUDA. @return kExhausted that says how much was asked for
  static Result<std::unique_ptr<BucketRing>> make(std::shared_ptr<driver::Nccl> nccl,
                                                  std::shared_ptr<driver::Cuda> cuda, int device,
                                                  std::uint64_t bucket_bytes, std::uint32_t count);
  /// Nothing may use the memory any more.
  ~BucketRing();
  BucketRing(const BucketRing&) = delete;
  BucketRing& operator=(const BucketRing&) = delete;

  std::uint64_t bucket_bytes() const noexcept { return bucket_bytes_; }
  std::size_t count() const noexcept { return buckets_.size(); }
  std::byte* at(std::size_t index) const noexcept { return buckets_[index].memory; }
  /// Leaves the memory to the process: a kernel that cannot be ended may write to it.
  void leak() noexcept { buckets_.clear(); }

 private:
  struct Buffer {
    std::byte* memory = nullptr;
    bool is_of_nccl = false;
  };
  BucketRing(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda, int device,
             std::uint64_t bucket_bytes);

  const std::shared_ptr<driver::Nccl> nccl_;
  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  const std::uint64_t bucket_bytes_;
  std::vector<Buffer> buckets_;
};

}  // namespace weightcast::transport
