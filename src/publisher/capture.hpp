// Copying a share of the policy into a slot with worker threads, while the trainer goes on.
#pragma once

#include <cstdint>
#include <memory>

#include "publisher/capturer.hpp"

namespace weightcast::publisher {

struct CaptureOptions {
  std::uint32_t threads = 2;
  /// Tensors of at most this many bytes are copied by the caller of start(), as are all buffers,
  /// which a forward may change at any time.
  std::uint64_t inline_bytes = 16 * 1024;
  std::uint64_t chunk_bytes = 1 << 20;  ///< what a worker copies between two looks at `cancel`
};

/// Worker threads under SCHED_BATCH, so that they never preempt the trainer.
class CapturePool final : public Capturer {
 public:
  explicit CapturePool(const CaptureOptions& options);
  ~CapturePool() override;  ///< cancels, joins within one chunk's copy
  CapturePool(const CapturePool&) = delete;
  CapturePool& operator=(const CapturePool&) = delete;

  /// Copies buffers and small tensors at once and hands the rest to the workers.
  /// @return kInvalid where one is running or the request does not fit
  Status start(CaptureRequest request, Done done) override;
  bool wait(Deadline deadline) noexcept override;
  bool fence(Deadline deadline) noexcept override { return wait(deadline); }
  /// The chunks that have not begun are dropped.
  bool cancel() noexcept override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::publisher
