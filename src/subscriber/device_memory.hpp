// Images in a device's memory.
#pragma once

#include <memory>
#include <string>

#include "driver/cuda.hpp"
#include "subscriber/bounce.hpp"
#include "subscriber/device_checks.hpp"
#include "subscriber/device_copies.hpp"
#include "subscriber/image_memory.hpp"

namespace weightcast::subscriber {

/// Streams, events, digest tables are taken when it opens; pinned buffers (16 MiB), when a version
/// first comes over a network. Nothing is taken later.
///
/// How a share comes: from a device's memory and from registered memory of this host by copies of
/// the device's own; from elsewhere through the pinned buffers. Then the device computes digests of
/// what lies there: of each whole entry, which the manifest's has to equal; of the rest, which that
/// of its source has to equal.
class DeviceMemory final : public ImageMemory {
 public:
  /// @return kInvalid for a device that is not there, and what CUDA says
  static Result<std::shared_ptr<DeviceMemory>> open(std::shared_ptr<driver::Cuda> cuda, int device);

  int device() const noexcept override { return device_; }
  Result<std::unique_ptr<ImageBuffer>> allocate(std::uint64_t bytes) override;
  Result<MemoryBudget> budget(std::uint64_t configured, std::uint64_t taken) override;
  std::uint64_t bucket_bytes() const noexcept override;
  Status fetch(const Fetch& fetch, std::uint32_t credit,
               const std::function<bool()>& cancelled) override;
  Status follow(const Following& following, const std::function<bool()>& stop) override;
  Status copy(const InPlaceCopy& copy) override;

 private:
  DeviceMemory(std::shared_ptr<driver::Cuda> cuda, int device, std::string identity)
      : cuda_(std::move(cuda)), device_(device), identity_(std::move(identity)) {}

  Status copy_direct(const Fetch& fetch, const std::function<bool()>& cancelled);
  /// Queues the copies of a bucket, behind those that wait to be queued with it.
  Status copy_bucket(const plan::PlannedBucket& bucket, const std::byte* source, CopyWay way,
                     std::span<std::byte> image);
  Status send_waiting();  ///< queues what waits
  void drop_waiting() noexcept;
  Status bring_others(const Fetch& fetch, const PlacedRanges& ranges, std::uint32_t credit,
                      const std::function<bool()>& cancelled);
  Status verify(const Fetch& fetch, const PlacedRanges& ranges,
                const std::function<bool()>& cancelled);
  Status copy_over(const InPlaceCopy& copy);
  Status read_behind(const Following& following, const std::function<bool()>& stop);

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  const std::string identity_;
  std::unique_ptr<DeviceCopies> copies_;
  std::vector<driver::CopyItem> waiting_;  ///< of one way, for one batch
  std::uint64_t waiting_bytes_ = 0;
  CopyWay waiting_way_ = CopyWay::kFromHost;
  std::unique_ptr<DeviceChecks> checks_;
  std::unique_ptr<Bounce> bounce_;  ///< once something came over a network
};

}  // namespace weightcast::subscriber
