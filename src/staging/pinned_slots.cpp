#include "staging/pinned_slots.hpp"

#include <string>
#include <utility>

#include "staging/slot_format.hpp"

namespace weightcast::staging {

Result<std::unique_ptr<PinnedSlots>> PinnedSlots::pin(std::shared_ptr<driver::Cuda> cuda,
                                                      Slab& slab) {
  std::unique_ptr<PinnedSlots> slots(new PinnedSlots(std::move(cuda)));
  slots->pinned_.reserve(slab.slots());
  for (std::uint32_t i = 0; i < slab.slots(); ++i) {
    // The mapping has whole pages, of which the payload may end within the last.
    const std::span<std::byte> pages(slab.payload(i).data(), mapped_bytes(slab.slot_bytes()));
    if (Status s = slots->cuda_->register_host(pages.data(), pages.size()); !s) {
      return Status(s.code(), "the " + std::to_string(pages.size()) + " bytes of slot " +
                                  std::to_string(i) +
                                  " cannot be registered with the device: " + s.message());
    }
    slots->pinned_.push_back(pages);
  }
  return slots;
}

PinnedSlots::~PinnedSlots() {
  for (const std::span<std::byte> pages : pinned_) {
    cuda_->unregister_host(pages.data(), pages.size());
  }
}

}  // namespace weightcast::staging
