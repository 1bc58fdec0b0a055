// A trainer's policy in the memory of a fake device.
#pragma once

#include <cstring>
#include <vector>

#include "support/fake_cuda.hpp"
#include "support/toy_policy.hpp"

namespace weightcast::test {

/// A ToyPolicy in the memory of a device, but for one tensor that stays with the host.
class DeviceToy {
 public:
  DeviceToy(driver::FakeCuda& cuda, ToyPolicy& policy, int device = 0)
      : cuda_(cuda), policy_(policy), device_(device) {
    for (const auto& tensor : policy.tensors) {
      void* memory = nullptr;
      if (tensor.info.bytes() != 0 && tensor.info.name != "norm.steps") {
        memory = *cuda_.allocate(device_, tensor.info.bytes());
      }
      memory_.push_back(memory);
    }
    stream_ = *cuda_.create_stream(device_, false);
    step(0);
  }
  ~DeviceToy() {
    cuda_.run_all();
    for (void* memory : memory_) cuda_.free(device_, memory);
    cuda_.destroy_stream(device_, stream_);
  }
  DeviceToy(const DeviceToy&) = delete;
  DeviceToy& operator=(const DeviceToy&) = delete;

  /// As an optimizer's kernels do, behind all that is queued.
  void step(std::uint64_t number) {
    policy_.step(number);
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (memory_[i] == nullptr) continue;
      cuda_.enqueue(device_, stream_, [to = memory_[i], bytes = *policy_.tensors[i].bytes] {
        std::memcpy(to, bytes.data(), bytes.size());
      });
    }
  }
  Publisher::Lister lister() {
    return [this, inner = policy_.lister()](TensorList& list) {
      if (Status s = inner(list); !s) return s;
      for (std::size_t i = 0; i < memory_.size(); ++i) {
        if (memory_[i] == nullptr) continue;
        list.tensors[i].data = memory_[i];
        list.tensors[i].device = device_;
      }
      list.stream = stream_;
      return Status::ok();
    };
  }

 private:
  driver::FakeCuda& cuda_;
  ToyPolicy& policy_;
  const int device_;
  std::vector<void*> memory_;
  driver::Stream stream_ = nullptr;
};

}  // namespace weightcast::test
