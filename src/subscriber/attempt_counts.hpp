// How attempts at versions ended, and what they brought here, for metrics.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/code_counts.hpp"
#include "subscriber/incoming.hpp"
#include "subscriber/stager_host.hpp"

namespace weightcast::subscriber {

/// What the plan copies of each share, by the transport that it comes over; of a view nothing.
TransportBytes bytes_by_transport(const Incoming& incoming) noexcept;
/// "shm", "tcp", "cuda_ipc" or "nccl".
const char* transport_name(TransportChoice transport) noexcept;

/// Thread safety: note() from one thread, the others from any.
class AttemptCounts {
 public:
  /// Whether an attempt has ended in a failure; one that was given up for a newer one has not.
  static bool is_failure(const StageEvent& event) noexcept;

  void note(const StageEvent& event) noexcept;

  const base::CodeCounts& failed() const noexcept { return failed_; }
  /// Of the versions switched to.
  std::uint64_t received(TransportChoice transport) const noexcept {
    return received_[static_cast<std::size_t>(transport)].load(std::memory_order_relaxed);
  }

 private:
  TransportBytes coming_{};  ///< of the version that is being staged
  base::CodeCounts failed_;
  std::array<std::atomic<std::uint64_t>, std::tuple_size_v<TransportBytes>> received_{};
};

}  // namespace weightcast::subscriber
