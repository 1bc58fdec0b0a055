// The device's side of a capture: streams, events, scratch memory and digest jobs, and what is queued
// on them. All of it is taken when the tensors are first seen, or change; a capture takes nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <weightcast/status.hpp>

#include "base/digest.hpp"
#include "driver/cuda.hpp"
#include "publisher/capturer.hpp"
#include "publisher/device_plan.hpp"

namespace weightcast::publisher {

/// Two streams beside the trainer's: one prepares (gathers, digests), one copies, within the device
/// by digests that copy what they read. Both wait for the trainer's; neither is ever waited for by a
/// thread.
///
/// A capture is snapshot(), then begin(), submit() for each chunk in order, end(). Whatever of it
/// failed, drained() says when nothing of it runs any more. Thread safety: one thread at a time, but
/// for what fence needs: mark_fence, let_trainer_wait and is_over go beside anything.
class DeviceLane {
 public:
  struct ChunkBytes {
    std::uint64_t moved = 0;     ///< of our chunks
    std::uint64_t digested = 0;  ///< of other shares'
  };
  static Result<std::unique_ptr<DeviceLane>> create(std::shared_ptr<driver::Cuda> cuda, int device,
                                                    ChunkBytes chunk_bytes);
  ~DeviceLane();  ///< nothing may be running
  DeviceLane(const DeviceLane&) = delete;
  DeviceLane& operator=(const DeviceLane&) = delete;

  /// Plans for these tensors and takes the memory, unless that stands from before. Nothing may be
  /// running. @return kExhausted; kInvalid for tensors elsewhere than on this device
  Status fit(const CaptureRequest& request, bool payload_on_device);
  const DevicePlan& plan() const noexcept { return plan_; }
  std::uint32_t chunks(bool whole_policy) const noexcept {
    return whole_policy ? std::uint32_t(plan_.chunks.size()) : plan_.own_chunks;
  }

  /// The trainer's thread: copies the host's tensors, and queues on the trainer's own stream what it
  /// may rewrite at once, and a mark behind it.
  Status snapshot(const CaptureRequest& request);

  Status begin(const CaptureRequest& request);
  Status submit(const CaptureRequest& request, std::uint32_t chunk);
  Status end();

  Result<bool> has_started();                      ///< the trainer's stream has passed the mark
  Result<bool> chunk_over(std::uint32_t chunk);    ///< one of ours, and all before it
  Result<bool> is_over();                          ///< all that end() stood behind
  /// After is_over(): a sum for each item, and one of the others that are compared.
  std::span<const base::Digest> sums(bool whole_policy);

  /// Whether nothing of this capture runs any more, however it ended. An error: no telling; where it
  /// comes again and again the device is past running anything.
  Result<bool> drained();
  void begin_draining() noexcept { is_draining_ = {}; }

  // The fence.
  Status mark_fence(driver::Stream trainer);
  Result<bool> fence_passed();
  Status let_trainer_wait(driver::Stream trainer);

  /// By the device's clock; nothing where a mark has not been passed.
  std::optional<std::chrono::nanoseconds> from_start_to_end();
  std::optional<std::chrono::nanoseconds> from_start_to_fence();
  std::optional<std::chrono::nanoseconds> from_fence_to_end();

 private:
  struct Kept {  ///< of a tensor, what the plan depends on besides what is published
    int device = -1;
    bool buffer = false;
    DType dtype = DType::kF32;
    std::vector<std::int64_t> strides;
    bool operator==(const Kept&) const = default;
  };

  DeviceLane(std::shared_ptr<driver::Cuda> cuda, int device, ChunkBytes chunk_bytes) noexcept
      : cuda_(std::move(cuda)), device_(device), chunk_bytes_(chunk_bytes) {}
  Status make_streams();
  bool fits(const CaptureRequest& request, bool payload_on_device) const;
  Status take_memory();
  void drop_memory() noexcept;
  void copy_hosts(const CaptureRequest& request);
  void add_gathers(const CaptureRequest& request, const DevicePart& part, std::byte* to);
  Status gather_chunk(const CaptureRequest& request, const DeviceChunk& chunk,
                      std::uint32_t number, std::byte* base);
  Status digest_chunk(const CaptureRequest& request, const DeviceChunk& chunk,
                      std::uint32_t number, const std::byte* base, std::byte* place);
  Status copy_chunk(const CaptureRequest& request, const DeviceChunk& chunk,
                    const std::byte* base, std::byte* place);
  std::span<const DevicePart> parts_of(const DeviceChunk& chunk) const {
    return std::span(plan_.parts).subspan(chunk.first_part, chunk.parts);
  }
  const std::byte* source_of(const CaptureRequest& request, const DevicePart& part) const;
  std::optional<std::chrono::nanoseconds> elapsed(driver::Event from, driver::Event to);

  std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  const ChunkBytes chunk_bytes_;

  driver::Stream prepare_ = nullptr;
  driver::Stream copy_ = nullptr;
  driver::Event start_ = nullptr;     // on the trainer's stream, behind the snapshots; timed
  driver::Event fence_ = nullptr;     // on the trainer's stream, where it began to wait; timed
  driver::Event prepared_ = nullptr;  // behind all of prepare_
  driver::Event over_ = nullptr;      // behind everything; timed
  std::array<driver::Event, 2> ready_{};    // by scratch: gathered
  std::array<driver::Event, 2> drained_{};  // of prepare_ and copy_
  std::array<bool, 2> is_draining_{};
  driver::Stream trainer_ = nullptr;   // of the last snapshot
  bool is_marked_ = true;              // start_ stands behind that
  std::vector<driver::Event> events_;  // all of these and chunk_over_, to be destroyed
  std::vector<driver::Event> chunk_over_;

  // For one plan.
  DevicePlan plan_;
  std::vector<Kept> kept_;
  std::vector<TensorInfo> published_;
  std::vector<std::uint32_t> items_;
  bool payload_on_device_ = false;
  bool is_planned_ = false;
  std::byte* snapshots_ = nullptr;  // device
  std::byte* hosts_ = nullptr;      // pinned
  std::array<std::byte*, 2> scratch_{};
  std::unique_ptr<driver::DigestJob> whole_job_;
  std::vector<std::unique_ptr<driver::DigestJob>> chunk_jobs_;  // null: has no digest of its own

  // Of one capture.
  std::vector<base::Digest> host_sums_;
  std::vector<base::Digest> sums_;
  std::array<std::optional<std::uint32_t>, 2> scratch_user_;  // chunk whose copy reads it
  std::uint32_t next_scratch_ = 0;
  std::vector<driver::CopyItem> copies_;
  std::vector<driver::GatherItem> gathers_;
  std::vector<driver::DigestPart> digests_;
};

}  // namespace weightcast::publisher
