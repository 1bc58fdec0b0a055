// An engine's end of a flow: buckets to where they belong in device memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "transport/nccl/bucket_flow.hpp"

namespace weightcast::transport {

/// Where a bucket's bytes go: queues copies from device memory to their places on the stream
/// (Cuda::copy), without waiting.
using NcclDestination =
    std::function<Status(std::span<const std::byte> bucket, driver::Stream stream)>;

/// Thread safety: one thread.
class NcclReceiver final : public BucketEnd {
 public:
  /// @param destinations by the number in FlowStep::bucket; what comes for an empty one is dropped
  /// @param arrived called for each bucket that is in its place; may be empty
  NcclReceiver(std::vector<NcclDestination> destinations,
               std::function<void(std::uint32_t bucket)> arrived)
      : destinations_(std::move(destinations)), arrived_(std::move(arrived)) {}

  Status load(const FlowStep& step, std::byte*, driver::Stream) override;
  Status place(const FlowStep& step, std::span<const std::byte> buffer,
               driver::Stream stream) override;
  void done(const FlowStep& step) override;

 private:
  const std::vector<NcclDestination> destinations_;
  const std::function<void(std::uint32_t)> arrived_;
};

}  // namespace weightcast::transport
