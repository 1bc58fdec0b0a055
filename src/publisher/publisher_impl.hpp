// A publisher's inside: what the trainer's thread, the control loop and the capture have in common.
#pragma once

#include <weightcast/publisher.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/host.hpp"
#include "base/log.hpp"
#include "base/trace_use.hpp"
#include "metrics/use.hpp"
#include "publisher/capture_plan.hpp"
#include "publisher/capturer.hpp"
#include "publisher/control_loop.hpp"
#include "publisher/data_server.hpp"
#include "publisher/nccl_choice.hpp"
#include "publisher/publisher_metrics.hpp"
#include "publisher/slot_memory.hpp"
#include "staging/slab.hpp"

namespace weightcast {
namespace publisher {

class SlabLocks final : public protocol::SlotLocks {
 public:
  explicit SlabLocks(staging::Slab& slab) : slab_(slab) {}
  bool try_lock(std::uint32_t slot) override { return slab_.try_lock(slot); }
  void unlock(std::uint32_t slot) override { slab_.unlock(slot); }

 private:
  staging::Slab& slab_;
};

/// Lists the tensors, whatever the user's code throws.
Status call_lister(const Publisher::Lister& lister, TensorList& list) noexcept;

}  // namespace publisher

class Publisher::Impl {
 public:
  Impl(PublisherOptions options, base::TraceUse trace,
       std::unique_ptr<publisher::SlotMemory> memory, publisher::CapturePlan layout)
      : options_(std::move(options)),
        trace_(std::move(trace)),
        memory_(std::move(memory)),
        locks_(memory_->slab()),
        layout_(std::make_shared<const publisher::CapturePlan>(std::move(layout))) {}

  ~Impl() {
    metrics_ = {};  // nobody looks after this
    capturer_.reset();  // no capture ends after this
    loop_.reset();
    data_server_ = {};  // it holds slots of the slab
    nccl_.reset();      // so does this, which the server asks
  }

  static Result<std::unique_ptr<Impl>> open(PublisherOptions options, const Lister& lister);

  PointResult publish(const Lister& lister, Deadline wait_until, bool insist);
  void skip(const std::string& why);
  Status fence(Deadline deadline);
  Result<Verdict> flush(Deadline deadline, const Lister& lister);
  PublisherStatus status() const;
  const PublisherOptions& options() const noexcept { return options_; }

 private:
  PointResult capture(const protocol::PointDecision& decision, const Lister& lister);
  PointResult give_up(const protocol::PointDecision& decision, const Status& status, bool is_news = true);
  publisher::CaptureRequest request_of(TensorList list, std::uint32_t slot);
  plan::Share share_of(std::uint32_t slot, std::uint64_t generation, const publisher::CapturePlan& layout,
                       std::span<const base::Digest> digests) const;
  void begun(std::uint32_t slot, std::uint64_t generation, const publisher::CapturePlan& layout);
  void captured(const protocol::PointDecision& decision, std::uint64_t generation,
                const std::shared_ptr<const publisher::CapturePlan>& layout, Clock::time_point at,
                publisher::CaptureResult result);
  Status use_layout_of(const TensorList& list);
  protocol::SourceReport report() const;
  Result<Verdict> judge(const protocol::Verdict& verdict, const Run& run) const;

  const PublisherOptions options_;
  const base::TraceUse trace_;  ///< ends after all that has spans
  std::unique_ptr<publisher::SlotMemory> memory_;
  publisher::SlabLocks locks_;
  std::unique_ptr<publisher::NcclSource> nccl_;  ///< may be null
  publisher::DataServer data_server_;
  const std::string host_ = base::host_identity();
  std::unique_ptr<publisher::ControlLoop> loop_;
  std::unique_ptr<publisher::Capturer> capturer_;
  std::shared_ptr<const publisher::CapturePlan> layout_;  ///< the trainer's thread alone
  base::RateLimit stall_warning_{std::chrono::seconds(10)};
  base::RateLimit void_warning_{std::chrono::seconds(10)};

  std::atomic<bool> stalled_{false};
  std::atomic<std::uint64_t> captured_{0};
  std::atomic<std::uint64_t> coalesced_{0};
  publisher::VoidCounts voids_;
  std::atomic<std::int64_t> last_capture_ns_{0};
  std::atomic<std::int64_t> last_hook_ns_{0};
  std::atomic<std::int64_t> last_fence_ns_{0};
  metrics::Use metrics_;
};

}  // namespace weightcast
