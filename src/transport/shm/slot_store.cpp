#include "transport/shm/slot_store.hpp"

namespace weightcast::transport {

Result<std::shared_ptr<Segment>> SlotStore::hold(const SegmentAddress& address) {
  if (!address.object.starts_with(prefix_)) {
    return Status(Code::kNotFound,
                  "\"" + address.object +
                      "\" is not served here: expected a name that begins with \"" + prefix_ +
                      "\"; ask for the newest version");
  }
  const std::lock_guard guard(mutex_);
  return cache_.acquire(address);
}

}  // namespace weightcast::transport
