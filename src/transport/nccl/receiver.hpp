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
  /// @param let_go as BucketEnd::is_let_go; empty: nobody else reads
  NcclReceiver(std::vector<NcclDestination> destinations,
               std::function<void(std::uint32_t bucket)> arrived,
               std::function<bool(std::uint32_t bucket, Clock::time_point now)> let_go = {})
      : destinations_(std::move(destinations)),
        arrived_(std::move(arrived)),
        let_go_(std::move(let_go)) {}

  Status load(const FlowStep& step, std::byte*, driver::Stream) override;
  Status place(const FlowStep& step, std::span<const std::byte> buffer,
               driver::Stream stream) override;
  bool is_let_go(const FlowStep& step, Clock::time_point now) override {
    return !let_go_ || let_go_(step.bucket, now);
  }
  void done(const FlowStep& step) override;

 private:
  const std::vector<NcclDestination> destinations_;
  const std::function<void(std::uint32_t)> arrived_;
  const std::function<bool(std::uint32_t, Clock::time_point)> let_go_;
};

}  // namespace weightcast::transport
