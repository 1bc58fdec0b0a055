#include "driver/cuda_digests.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "driver/cuda_error.hpp"
#include "driver/kernels.hpp"

namespace weightcast::driver {
namespace {

static_assert(sizeof(base::Digest) == sizeof(DigestSum), "sums come back as they are");

class CudaDigests : public DigestJob {
 public:
  CudaDigests(Contexts& contexts, int device, int multiprocessors, std::size_t max_parts,
              std::size_t max_sums)
      : contexts_(contexts), device_(device), multiprocessors_(multiprocessors),
        max_parts_(std::max<std::size_t>(max_parts, 1)),
        max_sums_(std::max<std::size_t>(max_sums, 1)) {}

  ~CudaDigests() override {
    const OnDevice on(contexts_, device_);
    if (!on.status()) return;
    // Each waits for what still runs; on a lost device there is nothing to be done about errors.
    if (device_memory_ != nullptr) static_cast<void>(cudaFree(device_memory_));
    if (host_memory_ != nullptr) static_cast<void>(cudaFreeHost(host_memory_));
    if (over_ != nullptr) static_cast<void>(cudaEventDestroy(over_));
    static_cast<void>(cudaGetLastError());
  }
  CudaDigests(const CudaDigests&) = delete;
  CudaDigests& operator=(const CudaDigests&) = delete;

  Status take_memory() {
    const OnDevice on(contexts_, device_);
    if (!on.status()) return on.status();
    const std::size_t table = max_parts_ * sizeof(DigestEntry);
    const std::size_t sums = max_sums_ * sizeof(DigestSum);
    if (Status s = cuda_status("cudaMalloc", cudaMalloc(&device_memory_, table + sums)); !s) {
      return s;
    }
    if (Status s = cuda_status("cudaHostAlloc", cudaHostAlloc(&host_memory_, table + sums,
                                                              cudaHostAllocPortable));
        !s) {
      return s;
    }
    device_table_ = static_cast<DigestEntry*>(device_memory_);
    device_sums_ = reinterpret_cast<DigestSum*>(device_table_ + max_parts_);
    host_table_ = static_cast<DigestEntry*>(host_memory_);
    host_sums_ = reinterpret_cast<base::Digest*>(host_table_ + max_parts_);
    std::fill_n(host_sums_, max_sums_, base::Digest{});
    return cuda_status("cudaEventCreate",
                       cudaEventCreateWithFlags(&over_, cudaEventDisableTiming));
  }

  Status start(std::span<const DigestPart> parts, Stream stream) override {
    if (Status s = check(parts); !s) return s;
    const OnDevice on(contexts_, device_);
    if (!on.status()) return on.status();
    if (const cudaError_t error = cudaEventQuery(over_); error != cudaSuccess) {
      // The table and the sums are still in use.
      return cuda_status("a digest before the last one is over", error);
    }

    std::uint64_t total = 0;
    for (const DigestPart& part : parts) total += part.bytes;
    const auto blocks = static_cast<std::uint64_t>(multiprocessors_) * kDigestBlocks;
    const std::uint64_t tile_bytes = tile_bytes_for(total, blocks);
    std::uint32_t count = 0;
    std::uint64_t tiles = 0;
    for (const DigestPart& part : parts) {
      if (part.bytes == 0) continue;
      host_table_[count++] = {static_cast<const unsigned char*>(part.data), part.bytes,
                              part.first_word, tiles, part.sum,
                              static_cast<unsigned char*>(part.to)};
      tiles += tiles_of(part.bytes, tile_bytes);
    }

    auto* on_stream = static_cast<cudaStream_t>(stream);
    const std::size_t sums = max_sums_ * sizeof(DigestSum);
    if (Status s = cuda_status("cudaMemsetAsync",
                               cudaMemsetAsync(device_sums_, 0, sums, on_stream));
        !s) {
      return s;
    }
    if (count != 0) {
      if (Status s = cuda_status("cudaMemcpyAsync of a digest's table",
                                 cudaMemcpyAsync(device_table_, host_table_,
                                                 count * sizeof(DigestEntry),
                                                 cudaMemcpyHostToDevice, on_stream));
          !s) {
        return s;
      }
      if (Status s = cuda_status("the digest kernel",
                                 static_cast<cudaError_t>(
                                     launch_digest(device_table_, count, tiles, tile_bytes,
                                                   device_sums_, multiprocessors_, stream)));
          !s) {
        return s;
      }
    }
    if (Status s = cuda_status("cudaMemcpyAsync of digests",
                               cudaMemcpyAsync(host_sums_, device_sums_, sums,
                                               cudaMemcpyDeviceToHost, on_stream));
        !s) {
      return s;
    }
    return cuda_status("cudaEventRecord", cudaEventRecord(over_, on_stream));
  }

  std::span<const base::Digest> sums() const noexcept override {
    return {host_sums_, max_sums_};
  }

 private:
  Status check(std::span<const DigestPart> parts) const {
    if (parts.size() > max_parts_) {
      return {Code::kInvalid, "expected at most " + std::to_string(max_parts_) +
                                  " parts, got " + std::to_string(parts.size())};
    }
    for (const DigestPart& part : parts) {
      if (reinterpret_cast<std::uintptr_t>(part.to) % 8 != 0) {
        return {Code::kInvalid, "expected a place to copy to at a multiple of 8"};
      }
      if (part.sum < max_sums_) continue;
      return {Code::kInvalid, "expected a sum below " + std::to_string(max_sums_) + ", got " +
                                  std::to_string(part.sum)};
    }
    return {};
  }

  Contexts& contexts_;
  int device_;
  int multiprocessors_;
  std::size_t max_parts_;
  std::size_t max_sums_;
  void* device_memory_ = nullptr;
  void* host_memory_ = nullptr;
  DigestEntry* device_table_ = nullptr;
  DigestSum* device_sums_ = nullptr;
  DigestEntry* host_table_ = nullptr;
  base::Digest* host_sums_ = nullptr;
  cudaEvent_t over_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<DigestJob>> make_cuda_digests(Contexts& contexts, int device,
                                                     int multiprocessors, std::size_t max_parts,
                                                     std::size_t max_sums) {
  auto job = std::make_unique<CudaDigests>(contexts, device, multiprocessors, max_parts, max_sums);
  if (Status s = job->take_memory(); !s) return s;
  return std::unique_ptr<DigestJob>(std::move(job));
}

}  // namespace weightcast::driver
