#include "transport/nccl/receiver.hpp"

#include <string>

namespace weightcast::transport {

Result<const void*> NcclReceiver::load(const FlowStep& step, std::byte*, driver::Stream) {
  return Status(Code::kInvalid, "bucket " + std::to_string(step.bucket) +
                                    " is to be sent by who receives");
}

void* NcclReceiver::direct(const FlowStep& step) {
  if (step.bucket >= destinations_.size()) return nullptr;
  const std::span<std::byte> whole = destinations_[step.bucket].whole;
  return whole.size() == step.bytes ? whole.data() : nullptr;
}

Status NcclReceiver::place(const FlowStep& step, std::span<const std::byte> buffer,
                           driver::Stream stream) {
  if (step.bucket >= destinations_.size() || !destinations_[step.bucket].whole.empty()) {
    return {Code::kInvalid, "bucket " + std::to_string(step.bucket) + " came with " +
                                std::to_string(step.bytes) + " bytes and has no place"};
  }
  const NcclDestination& to = destinations_[step.bucket];
  return to.place ? to.place(buffer, stream) : Status::ok();
}

void NcclReceiver::done(const FlowStep& step) {
  if (arrived_) arrived_(step.bucket);
}

}  // namespace weightcast::transport
