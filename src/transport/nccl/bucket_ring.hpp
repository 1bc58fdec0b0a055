// Device memory that buckets go through, taken once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "driver/cuda.hpp"
#include "driver/nccl.hpp"

namespace weightcast::transport {

/// One allocation. Thread safety: one thread.
class BucketRing {
 public:
  /// From CUDA, so that other processes can open it; where it is to be registered, from NCCL, if that
  /// has some. @return kExhausted that says how much was asked for
  static Result<std::unique_ptr<BucketRing>> make(std::shared_ptr<driver::Nccl> nccl,
                                                  std::shared_ptr<driver::Cuda> cuda, int device,
                                                  std::uint64_t bucket_bytes, std::uint32_t count,
                                                  bool is_registered);
  /// Nothing may use the memory any more.
  ~BucketRing();
  BucketRing(const BucketRing&) = delete;
  BucketRing& operator=(const BucketRing&) = delete;

  std::uint64_t bucket_bytes() const noexcept { return bucket_bytes_; }
  std::size_t count() const noexcept { return count_; }
  std::byte* at(std::size_t index) const noexcept { return memory_ + index * bucket_bytes_; }
  /// For other processes. @return what CUDA says; kInvalid for NCCL's memory
  Result<driver::IpcHandle> exported() const;
  /// Leaves the memory to the process: a kernel that cannot be ended may write to it.
  void leak() noexcept { memory_ = nullptr; }

 private:
  BucketRing(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda, int device,
             std::uint64_t bucket_bytes, std::uint32_t count);

  const std::shared_ptr<driver::Nccl> nccl_;
  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  const std::uint64_t bucket_bytes_;
  const std::uint32_t count_;
  std::byte* memory_ = nullptr;
  bool is_of_nccl_ = false;
};

}  // namespace weightcast::transport
