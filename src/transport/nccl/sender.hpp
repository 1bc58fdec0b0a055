// The trainer's end of a flow: buckets out of a slot, in host or device memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "transport/nccl/bucket_flow.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// A sealed slot's payload, on the device or in host memory that is registered with CUDA: else each
/// copy out of it waits.
struct NcclPayload {
  std::span<const std::byte> bytes;
  std::shared_ptr<Segment> held{};  ///< keeps the bytes still
};

/// What a bucket is made of: either `bytes` bytes at `offset`, or runs one after the other.
struct NcclBucketBytes {
  std::uint32_t payload = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::vector<Strip> strips{};
};

/// Thread safety: one thread.
class NcclSender final : public BucketEnd {
 public:
  /// @param payloads of all sources that this end sends for
  /// @param buckets by the number in FlowStep::bucket
  /// @param sent called for each bucket that has gone; may be empty
  /// @return kInvalid for a bucket that reaches out of its payload
  static Result<std::unique_ptr<NcclSender>> make(const NcclGpu& gpu,
                                                  std::vector<NcclPayload> payloads,
                                                  std::vector<NcclBucketBytes> buckets,
                                                  std::function<void(std::uint32_t bucket)> sent);

  Status load(const FlowStep& step, std::byte* buffer, driver::Stream stream) override;
  Status place(const FlowStep&, std::span<const std::byte>, driver::Stream) override;
  void done(const FlowStep& step) override;

 private:
  NcclSender(const NcclGpu& gpu, std::vector<NcclPayload> payloads,
             std::vector<NcclBucketBytes> buckets, std::function<void(std::uint32_t)> sent);

  const NcclGpu& gpu_;
  const std::vector<NcclPayload> payloads_;
  const std::vector<NcclBucketBytes> buckets_;
  const std::function<void(std::uint32_t)> sent_;
  std::vector<driver::CopyItem> items_;
};

}  // namespace weightcast::transport
