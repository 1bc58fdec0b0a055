// Whoever copies a share of the policy into a slot while the trainer goes on: host threads
// (capture.hpp) or a device (device_capture.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <weightcast/types.hpp>

#include "base/digest.hpp"
#include "plan/shares.hpp"

namespace weightcast::publisher {

/// One capture: what, from where, to where.
struct CaptureRequest {
  TensorList list;                    ///< all tensors of the policy
  std::vector<TensorInfo> published;  ///< the same tensors as published (dtype after the cast)
  plan::ShareLayout layout;           ///< this rank's share
  std::span<std::byte> payload;       ///< of the slot; in use until `done` is called. Of a device
                                      ///< where that is where the slots are
  bool whole_policy_digest = false;   ///< also digest the whole parameters of other shares
  std::uint64_t version = 0;          ///< its number, for the trace
  /// Of a capture whose bytes come bit by bit: it is under way. Called at most once, from a worker.
  std::function<void()> begun{};
  /// As above: the payload's first `bytes` bytes are final. From a worker, rising.
  std::function<void(std::uint64_t bytes)> written{};
};

struct CaptureResult {
  /// Ok; kCancelled after cancel(); kStale where `unchanged` said no; else what failed.
  Status status;
  std::vector<base::Digest> digests;  ///< one an item of the layout, in its order
  base::Digest policy_digest;         ///< sum over whole parameters; where it was asked for
  std::chrono::nanoseconds busy{0};   ///< from start() to the last copy
};

/// Thread safety: start, wait, fence and cancel from the trainer's thread; `done` comes from a worker
/// (or from start() itself where everything was copied by it).
class Capturer {
 public:
  using Done = std::function<void(CaptureResult)>;

  /// Gives up what runs, within a bounded time; `done` is not called after it.
  virtual ~Capturer() = default;

  /// Copies what the trainer may change at once, has the rest copied by others, and returns. One
  /// capture at a time. `done` is called exactly once, after which the payload is no longer written.
  /// If the list's `keep_alive` was the last owner, the tensors are freed on a worker.
  /// @return a failure (and no call of done) where one is running or the request does not fit
  virtual Status start(CaptureRequest request, Done done) = 0;

  /// Waits until no copy is running. @return false at the deadline. Returns at once when idle.
  virtual bool wait(Deadline deadline) noexcept = 0;

  /// Sees to it that the trainer may write to the tensors now: waits for the copies, or has the
  /// trainer's stream wait for them. @return false where neither is done by the deadline: cancel()
  virtual bool fence(Deadline deadline) noexcept = 0;

  /// What has not begun is dropped; done() will say kCancelled. Does not wait.
  /// @return false where there is nothing to cancel: every copy has ended, and done() says how
  virtual bool cancel() noexcept = 0;

  /// How often, and how long at last by the device's clock, the trainer's stream was made to wait.
  struct StreamWaits {
    std::uint64_t count = 0;
    std::chrono::nanoseconds last{0};
  };
  virtual StreamWaits stream_waits() const noexcept { return {}; }  ///< any thread
};

/// Whether a request can be captured at all. @return kInvalid that names the tensor
Status check_request(const CaptureRequest& request);

/// Whether every rank should have the same bytes of it. Buffers are each rank's own (BatchNorm
/// statistics differ where the data does), and so are boxes of a sharded tensor.
bool is_compared(const TensorInfo& published);

/// Whether the tensors stand still after their copies, by the list's `unchanged`; as a status.
Status check_unchanged(const TensorList& list) noexcept;

/// Puts the sums of digests into a result.
/// @param sums one an item of the layout, then one of all other compared tensors
void fill_digests(const CaptureRequest& request, std::span<const base::Digest> sums,
                  CaptureResult& result);

}  // namespace weightcast::publisher
