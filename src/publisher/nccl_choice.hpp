// Whether a rank sends over NCCL.
#pragma once

#include <memory>

#include <weightcast/publisher.hpp>

#include "publisher/nccl_source.hpp"
#include "publisher/slot_memory.hpp"

namespace weightcast::publisher {

/// Where transport is nccl, or where it is auto, engines may be on other hosts, the links to them are
/// trusted and the tensors are on a device that NCCL can use. Logs what it came to.
/// @return null: it does not. With transport = nccl: kInvalid for tensors in host memory, kUnavailable
///   without NCCL, kExhausted for its buckets
Result<std::unique_ptr<NcclSource>> open_nccl_source(const PublisherOptions& options,
                                                     const SlotMemory& memory);

}  // namespace weightcast::publisher
