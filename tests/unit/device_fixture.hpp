// What the tests of DeviceCapture share: a policy in the memory of a fake device, and slots for it.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "publisher/device_capture.hpp"
#include "support/fake_cuda.hpp"
#include "unit/capture_fixture.hpp"

namespace weightcast::publisher::test {

/// A policy's tensors on device 0. The policy itself keeps what they held at the last load().
class OnDevice {
 public:
  OnDevice(driver::FakeCuda& cuda, Policy& policy) : cuda_(cuda), policy_(policy) {
    for (const TensorView& view : policy.list().tensors) {
      void* memory = nullptr;
      if (view.info.bytes() != 0) memory = *cuda_.allocate(0, view.info.bytes());
      memory_.push_back(static_cast<std::byte*>(memory));
    }
    stream = *cuda_.create_stream(0, false);
    load();
  }
  ~OnDevice() {
    for (std::byte* memory : memory_) cuda_.free(0, memory);
    cuda_.destroy_stream(0, stream);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  void load() {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const TensorView& view = policy_.list().tensors[i];
      if (memory_[i] != nullptr) std::memcpy(memory_[i], view.data, view.info.bytes());
    }
  }
  TensorList list() const {
    TensorList list = policy_.list();
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (memory_[i] == nullptr) continue;
      list.tensors[i].data = memory_[i];
      list.tensors[i].device = 0;
    }
    list.stream = stream;
    return list;
  }
  /// What a trainer's kernel would do, behind all that is queued on its stream.
  void overwrite_on_stream(bool buffers_alone = false) {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const TensorView& view = policy_.list().tensors[i];
      if (memory_[i] == nullptr || (buffers_alone && !view.info.buffer)) continue;
      cuda_.enqueue(0, stream, [to = memory_[i], bytes = view.info.bytes()] {
        std::memset(to, 0xEE, bytes);
      });
    }
  }
  /// As often as a tensor is written to, by the trainer's thread.
  std::shared_ptr<std::atomic<int>> counter = std::make_shared<std::atomic<int>>(0);
  driver::Stream stream = nullptr;

 private:
  driver::FakeCuda& cuda_;
  Policy& policy_;
  std::vector<std::byte*> memory_;
};

/// Room for one version, on the device or pinned.
struct DeviceSlot {
  DeviceSlot(driver::FakeCuda& with, std::uint64_t bytes, bool on_device)
      : cuda(with), is_on_device(on_device), slot(0) {
    void* memory = on_device ? *cuda.allocate(0, bytes + 64) : *cuda.allocate_host(bytes + 64);
    slot.payload = {static_cast<std::byte*>(memory), static_cast<std::size_t>(bytes)};
    clear();
  }
  ~DeviceSlot() {
    if (is_on_device) {
      cuda.free(0, slot.payload.data());
    } else {
      cuda.free_host(slot.payload.data());
    }
  }
  void clear() { std::fill(slot.payload.begin(), slot.payload.end(), kUntouched); }
  driver::FakeCuda& cuda;
  bool is_on_device;
  Slot slot;
};

/// A capture of one rank's share, ready to be started again and again.
struct Rig {
  Rig(std::shared_ptr<driver::FakeCuda> with, Policy& the_policy, bool on_device,
      std::uint32_t rank = 0, std::uint32_t world = 1)
      : cuda(std::move(with)),
        policy(the_policy),
        tensors(*cuda, policy),
        layout(plan::own_share(policy.published(), rank, world)),
        slot(*cuda, layout.payload_bytes, on_device) {
    options.cuda = cuda;
    options.payload_on_device = on_device;
    options.chunk_bytes = options.device_chunk_bytes = 4096;
    options.stall = std::chrono::seconds(60);
  }

  CaptureRequest request() {
    CaptureRequest request;
    request.list = tensors.list();
    request.list.unchanged = [counter = tensors.counter, before = tensors.counter->load()] {
      return counter->load() == before;
    };
    request.published = policy.published();
    request.layout = layout;
    request.payload = slot.slot.payload;
    request.version = ++version;
    return request;
  }
  void open() {
    auto made = DeviceCapture::create(options, request());
    ASSERT_TRUE(made.is_ok()) << made.status().to_string();
    capture = std::move(*made);
  }
  /// Starts and waits for the end.
  CaptureResult run(bool whole_policy = false) {
    Outcome outcome;
    CaptureRequest next = request();
    next.whole_policy_digest = whole_policy;
    const Status status = capture->start(std::move(next), outcome.callback());
    if (!status) return {status, {}, {}, {}};
    CaptureResult result = outcome.get();
    EXPECT_TRUE(capture->wait(soon()));
    EXPECT_EQ(outcome.calls(), 1);
    return result;
  }
  void expect_sealed_now(const CaptureResult& result) {
    expect_sealed(policy, layout, slot.slot, result);
  }

  std::shared_ptr<driver::FakeCuda> cuda;
  Policy& policy;
  OnDevice tensors;
  plan::ShareLayout layout;
  DeviceSlot slot;
  DeviceCaptureOptions options;
  std::uint64_t version = 0;
  std::unique_ptr<DeviceCapture> capture;
};

inline std::shared_ptr<driver::FakeCuda> fake(std::uint64_t seed = 0) {
  driver::FakeOptions options;
  options.seed = seed;
  options.piece_bytes = 4096;
  options.threaded = true;  // done() alone would move a piece at each look
  return std::make_shared<driver::FakeCuda>(options);
}

}  // namespace weightcast::publisher::test
