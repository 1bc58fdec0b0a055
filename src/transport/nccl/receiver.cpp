#include "transport/nccl/receiver.hpp"

#include <string>

namespace weightcast::transport {

Status NcclReceiver::load(const FlowStep& step, std::byte*, driver::Stream) {
  return {Code::kInvalid,
          "bucket " + std::to_string(step.bucket) + " is to be sent by who receives"};
}

Status NcclReceiver::place(const FlowStep& step, std::span<const std::byte> buffer,
                           driver::Stream stream) {
  if (step.bucket >= destinations_.size()) {
    return {Code::kInvalid, "bucket " + std::to_string(step.bucket) + " came with " +
                                std::to_string(step.bytes) + " bytes and has no place"};
  }
  const NcclDestination& to = destinations_[step.bucket];
  return to ? to(buffer, stream) : Status::ok();
}

void NcclReceiver::done(const FlowStep& step) {
  if (arrived_) arrived_(step.bucket);
}

}  // namespace weightcast::transport
