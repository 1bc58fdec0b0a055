#include "subscriber/attempt_counts.hpp"

#include <algorithm>

namespace weightcast::subscriber {

using Kind = StageEvent::Kind;

TransportBytes bytes_by_transport(const Incoming& incoming) noexcept {
  TransportBytes bytes{};
  const std::size_t shares = std::min(incoming.plan.share_bytes.size(), incoming.sources.size());
  for (std::size_t i = 0; i < shares; ++i) {
    bytes[static_cast<std::size_t>(incoming.sources[i].transport)] += incoming.plan.share_bytes[i];
  }
  return bytes;
}

const char* transport_name(TransportChoice transport) noexcept {
  switch (transport) {
    case TransportChoice::kTcp: return "tcp";
    case TransportChoice::kCudaIpc: return "cuda_ipc";
    case TransportChoice::kNccl: return "nccl";
    case TransportChoice::kShm:
    case TransportChoice::kAuto: break;
  }
  return "shm";
}

bool AttemptCounts::is_failure(const StageEvent& event) noexcept {
  const bool is_end = event.kind == Kind::kStaged || event.kind == Kind::kSwitchFailed ||
                      event.kind == Kind::kBecomeInPlace;
  return is_end && !event.status && event.status.code() != Code::kCancelled;
}

void AttemptCounts::note(const StageEvent& event) noexcept {
  if (is_failure(event)) failed_.add(event.status.code());
  if (event.kind == Kind::kSources) coming_ = event.bytes;
  if (event.kind != Kind::kSwitched) return;
  for (std::size_t i = 0; i < coming_.size(); ++i) {
    received_[i].fetch_add(coming_[i], std::memory_order_relaxed);
  }
  coming_ = {};
}

}  // namespace weightcast::subscriber
