// Copying a share of the policy into a slot with worker threads, while the trainer goes on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "base/digest.hpp"
#include "plan/shares.hpp"

namespace weightcast::publisher {

struct CaptureOptions {
  std::uint32_t threads = 2;
  /// Tensors of at most this many bytes are copied by the caller of start(), as are all buffers,
  /// which a forward may change at any time.
  std::uint64_t inline_bytes = 16 * 1024;
  std::uint64_t chunk_bytes = 1 << 20;  ///< what a worker copies between two looks at `cancel`
};

/// One capture: what, from where, to where.
struct CaptureRequest {
  TensorList list;                    ///< all tensors of the policy
  std::vector<TensorInfo> published;  ///< the same tensors as published (dtype after the cast)
  plan::ShareLayout layout;           ///< this rank's share
  std::span<std::byte> payload;       ///< of the slot; in use until `done` is called
  bool whole_policy_digest = false;   ///< also digest the whole parameters of other shares
  std::uint64_t version = 0;          ///< its number, for the trace
};

struct CaptureResult {
  /// Ok; kCancelled after cancel(); kStale where `unchanged` said no; kInvalid where a cast failed.
  Status status;
  std::vector<base::Digest> digests;  ///< one an item of the layout, in its order
  base::Digest policy_digest;         ///< sum over whole parameters; where it was asked for
  std::chrono::nanoseconds busy{0};   ///< from start() to the last copy
};

/// Worker threads under SCHED_BATCH, so that they never preempt the trainer.
/// Thread safety: start, cancel and wait from the trainer's thread; `done` comes from a worker (or
/// from start() itself where everything was copied inline).
class CapturePool {
 public:
  explicit CapturePool(const CaptureOptions& options);
  ~CapturePool();  ///< cancels, joins within one chunk's copy
  CapturePool(const CapturePool&) = delete;
  CapturePool& operator=(const CapturePool&) = delete;

  /// Copies buffers and small tensors at once and hands the rest to the workers. One capture at a
  /// time. `done` is called exactly once, after which the payload is no longer written. If the
  /// list's `keep_alive` was the last owner, the tensors are freed on a worker.
  /// @return kInvalid (and no call of done) where one is running or the request does not fit
  Status start(CaptureRequest request, std::function<void(CaptureResult)> done);

  /// Waits until no copy is running. @return false at the deadline. Returns at once when idle.
  bool wait(Deadline deadline) noexcept;

  /// The chunks that have not begun are dropped; done() will say kCancelled. Does not wait.
  /// @return false where there is nothing to cancel: every copy has ended, and done() says how
  bool cancel() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::publisher
