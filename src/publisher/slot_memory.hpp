// Where a rank's slots are: shared memory, shared memory that a device copies to, or a device's own
// memory with shared memory for headers and locks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <weightcast/publisher.hpp>

#include "driver/cuda.hpp"
#include "plan/manifest.hpp"
#include "publisher/capturer.hpp"
#include "staging/device_slab.hpp"
#include "staging/pinned_slots.hpp"
#include "staging/slab.hpp"

namespace weightcast::publisher {

/// Where slots of a device's tensors are to be, and why.
struct StagingChoice {
  Staging staging = Staging::kHost;  ///< kHost or kDevice
  bool may_fall_back = false;        ///< to kHost, where the device has no room after all
  std::string why;                   ///< for the log
};

/// @param total_bytes of all slots
/// @return kInvalid for options that do not go together
Result<StagingChoice> choose_staging(const PublisherOptions& options, std::uint64_t total_bytes);

class SlotMemory {
 public:
  /// Takes all memory; logs where it is and why.
  /// @param list says where the tensors are: on one device, or in host memory
  /// @return as staging::Slab, staging::DeviceSlab, choose_staging; kUnavailable where the tensors
  ///   are on a device and there is no CUDA; kInvalid where a tensor is not where the list says
  static Result<std::unique_ptr<SlotMemory>> open(const PublisherOptions& options,
                                                  const staging::ObjectOwner& owner,
                                                  const TensorList& list);

  staging::Slab& slab() noexcept { return *slab_; }
  std::span<std::byte> payload(std::uint32_t slot) noexcept;
  bool is_on_device() const noexcept { return device_slab_ != nullptr; }
  /// The device that the tensors are on; -1: none, and no cuda().
  int device() const noexcept { return device_; }
  const std::shared_ptr<driver::Cuda>& cuda() const noexcept { return cuda_; }
  /// What keeps the device's part of the slots, or their registration.
  std::shared_ptr<const void> holds() const;
  /// Says in a share where slot number `slot` is.
  void place(std::uint32_t slot, plan::Share& share) const;

  /// Who copies the tensors there.
  /// @param first a request such as all will be, with a slot's payload
  Result<std::unique_ptr<Capturer>> make_capturer(const PublisherOptions& options,
                                                  const CaptureRequest& first);

 private:
  Status open_on(int device, const PublisherOptions& options, staging::SlabOptions slab_options);

  std::unique_ptr<staging::Slab> slab_;
  std::shared_ptr<driver::Cuda> cuda_;  // null: the tensors are in host memory
  int device_ = -1;
  std::shared_ptr<staging::PinnedSlots> pinned_;
  std::shared_ptr<staging::DeviceSlab> device_slab_;
};

}  // namespace weightcast::publisher
