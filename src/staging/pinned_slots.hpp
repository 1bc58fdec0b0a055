// A slab's payloads made known to the devices, so that copies to them run at the bus's speed.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include <weightcast/status.hpp>

#include "driver/cuda.hpp"
#include "staging/slab.hpp"

namespace weightcast::staging {

/// Registers all slots' payloads for as long as it lives; the slab outlives it.
class PinnedSlots {
 public:
  /// At start-up: takes about 40 ms a GB. @return as driver::Cuda::register_host
  static Result<std::unique_ptr<PinnedSlots>> pin(std::shared_ptr<driver::Cuda> cuda, Slab& slab);
  ~PinnedSlots();
  PinnedSlots(const PinnedSlots&) = delete;
  PinnedSlots& operator=(const PinnedSlots&) = delete;

 private:
  explicit PinnedSlots(std::shared_ptr<driver::Cuda> cuda) noexcept : cuda_(std::move(cuda)) {}

  std::shared_ptr<driver::Cuda> cuda_;
  std::vector<std::span<std::byte>> pinned_;
};

}  // namespace weightcast::staging
