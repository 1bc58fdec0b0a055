// Bytes through the device memory of one host: the receiver maps the source's device slots.
#pragma once

#include <memory>
#include <utility>

#include "driver/cuda.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Lanes of it lock a slot as those of shm do, and show its payload in the memory of its device
/// (Segment::device_view()), which has to be visible to this process. For a reader on another device
/// it is mapped there, so that copies go from device to device (NVLink) and kernels may read it; where
/// the two have no access to one another, nothing is shown, and buckets are what there is. Buckets go
/// to host memory, or to any device's, on threads of the lane's own, which the first submit starts. A
/// lane follows one source: it keeps that source's allocation open until the source changes or the
/// lane goes.
/// SegmentAddress::object is the name of a slot, device and device_memory say where its bytes lie.
///
/// Beyond what Lane says: as ShmTransport. Segments that are still held keep the allocation open.
/// Thread safety: the transport's own calls may come from any thread.
class CudaIpcTransport final : public Transport {
 public:
  /// @param reader the device whose copies and kernels device_view() is for; -1: the source's
  explicit CudaIpcTransport(std::shared_ptr<driver::Cuda> cuda, int reader = -1)
      : cuda_(std::move(cuda)), reader_(reader) {}
  std::string_view name() const noexcept override { return "cuda_ipc"; }
  /// kUnavailable where no device is visible.
  Status viable() const override;
  Reach reach() const noexcept override { return Reach::kHost; }
  Result<std::unique_ptr<Lane>> open_lane(const LaneOptions& options) override;

 private:
  const std::shared_ptr<driver::Cuda> cuda_;
  const int reader_;
};

}  // namespace weightcast::transport
