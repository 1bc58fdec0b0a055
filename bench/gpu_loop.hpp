// Computing that keeps a device busy for a time: what a training step or a decode step does with it
// between the moments that matter here.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_support.hpp"

namespace bench {

/// Copies within scratch memory, as many as take about a given time; they use the device's memory
/// as hard as anything can. Thread safety: one thread.
class FakeWork {
 public:
  /// Measures on an idle device.
  FakeWork(const Device& device, double milliseconds, Stream& stream)
      : scratch_(device, 2 * kBytes), item_{scratch_.data(), scratch_.data() + kBytes, kBytes} {
    constexpr int kTries = 20;
    run(kTries, stream);
    Event begin(device);
    Event end(device);
    begin.record(stream.native());
    run(kTries, stream);
    end.record(stream.native());
    end.await();
    const double one = static_cast<double>(end.nanoseconds_since(begin)) / kTries / 1e6;
    copies_ = std::max(1, static_cast<int>(milliseconds / std::max(one, 1e-4) + 0.5));
  }

  int copies() const noexcept { return copies_; }
  void queue(Stream& stream) { run(copies_, stream); }

 private:
  static constexpr std::uint64_t kBytes = 1u << 30;

  void run(int copies, Stream& stream) {
    for (int i = 0; i < copies; ++i) stream.copy({&item_, 1});
  }

  Buffer scratch_;
  CopyItem item_;
  int copies_ = 1;
};

}  // namespace bench
