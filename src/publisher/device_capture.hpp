// Copying a share of the policy out of a device's memory while the trainer's stream goes on.
#pragma once

#include <cstdint>
#include <memory>

#include "driver/cuda.hpp"
#include "publisher/capturer.hpp"

namespace weightcast::publisher {

struct DeviceCaptureOptions {
  std::shared_ptr<driver::Cuda> cuda;
  int device = 0;
  bool payload_on_device = false;  ///< slots are in the device's memory (staging::DeviceSlab)
  Duration stall = std::chrono::milliseconds(100);  ///< that fence() may make the trainer wait
  /// A readers' step behind the writer. At 55 GB/s 64 MiB take 1.2 ms, a three-hundredth of an 8B
  /// policy, and are so long that queueing them costs nothing; bandwidth was measured to be the same
  /// from 64 to 512 MiB. Scratch for casts is two of it.
  std::uint64_t chunk_bytes = std::uint64_t{64} << 20;
  /// The same where the slots are on the device: 2 GiB take 1 ms there, beside which what each
  /// chunk costs (a table, a kernel, sums that come back: 0.1 ms) is little.
  std::uint64_t device_chunk_bytes = std::uint64_t{2} << 30;
  /// Without progress for so long, once the trainer's stream has come to a capture, the device counts
  /// as lost.
  Duration patience = std::chrono::seconds(30);
  Duration farewell = std::chrono::seconds(2);  ///< that the destructor gives the device to end
  /// Kept until nothing is copied to it any more, even by a device that hangs: what pins the slots,
  /// or their memory.
  std::shared_ptr<void> holds{};
};

/// One worker that queues and watches; the device does the rest on streams of its own.
///
/// start() queues copies of buffers and a mark on the trainer's stream and returns. fence() has that
/// stream wait for the copies where what is left fits the stall by the rate measured; no thread waits
/// for them. A failed call of CUDA voids its capture, and what runs of it is awaited before `done`. A
/// device that is lost or hangs is not used again: each later start() says so.
class DeviceCapture final : public Capturer {
 public:
  /// Takes all that a capture of tensors such as `first`'s needs. @return as driver::Cuda, kInvalid
  static Result<std::unique_ptr<DeviceCapture>> create(DeviceCaptureOptions options,
                                                       const CaptureRequest& first);
  ~DeviceCapture() override;
  DeviceCapture(const DeviceCapture&) = delete;
  DeviceCapture& operator=(const DeviceCapture&) = delete;

  /// @return kUnavailable where the device was lost; kExhausted where tensors have changed and the
  ///   memory for them is not to be had; kInvalid
  Status start(CaptureRequest request, Done done) override;
  bool wait(Deadline deadline) noexcept override;
  bool fence(Deadline deadline) noexcept override;
  bool cancel() noexcept override;
  StreamWaits stream_waits() const noexcept override;

 private:
  class Impl;
  explicit DeviceCapture(std::shared_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;  // shared with its worker
};

}  // namespace weightcast::publisher
