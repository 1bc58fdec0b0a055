// What the benchmarks' processes on a device have in common: the device, owners of its streams,
// events and memory, and what the process has taken of the machine.
#pragma once

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <weightcast/status.hpp>

#include "core_support.hpp"
#include "driver/cuda.hpp"

namespace bench {

using weightcast::driver::CopyItem;
using weightcast::driver::Cuda;

inline void must(const weightcast::Status& status) {
  if (!status.is_ok()) throw std::runtime_error(status.to_string());
}

template <class T>
T must(weightcast::Result<T> result) {
  if (!result) throw std::runtime_error(result.status().to_string());
  return std::move(*result);
}

/// One device, by the calls that the library itself uses. Thread safety: as driver::Cuda.
struct Device {
  std::shared_ptr<Cuda> cuda;
  int index = 0;

  /// Throws where there is none; the message says what is missing.
  static Device open(int index) {
    Device device{must(weightcast::driver::load_cuda()), index};
    const int count = must(device.cuda->device_count());
    if (index < 0 || index >= count) {
      throw std::runtime_error("expected a device below " + std::to_string(count) + ", got " +
                               std::to_string(index));
    }
    return device;
  }
};

/// Device memory, or pinned host memory, for as long as this lives.
class Buffer {
 public:
  enum class Kind { kDevice, kPinned };

  Buffer() = default;
  Buffer(Device device, std::uint64_t bytes, Kind kind = Kind::kDevice)
      : device_(std::move(device)), bytes_(bytes), kind_(kind) {
    data_ = kind_ == Kind::kDevice ? must(device_.cuda->allocate(device_.index, bytes_))
                                   : must(device_.cuda->allocate_host(bytes_));
  }
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    if (this == &other) return *this;
    reset();
    device_ = std::move(other.device_);
    bytes_ = std::exchange(other.bytes_, 0);
    kind_ = other.kind_;
    data_ = std::exchange(other.data_, nullptr);
    return *this;
  }

  std::byte* data() const noexcept { return static_cast<std::byte*>(data_); }
  std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  void reset() noexcept {
    if (data_ == nullptr) return;
    kind_ == Kind::kDevice ? device_.cuda->free(device_.index, data_)
                           : device_.cuda->free_host(data_);
    data_ = nullptr;
  }

  Device device_;
  std::uint64_t bytes_ = 0;
  Kind kind_ = Kind::kDevice;
  void* data_ = nullptr;
};

class Event {
 public:
  explicit Event(Device device, bool timed = true)
      : device_(std::move(device)),
        event_(must(device_.cuda->create_event(device_.index, timed))) {}
  ~Event() {
    if (event_ != nullptr) device_.cuda->destroy_event(device_.index, event_);
  }
  Event(Event&& other) noexcept
      : device_(other.device_), event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;

  void record(weightcast::driver::Stream stream) {
    must(device_.cuda->record(device_.index, event_, stream));
  }
  bool done() const { return must(device_.cuda->done(device_.index, event_)); }
  /// The host waits, on this thread, which it keeps busy: it sees the end within microseconds.
  void await() const {
    while (!done()) std::this_thread::yield();
  }
  /// Both over and timed.
  std::int64_t nanoseconds_since(const Event& from) const {
    return must(device_.cuda->elapsed(device_.index, from.event_, event_)).count();
  }

 private:
  Device device_;
  weightcast::driver::Event event_ = nullptr;
};

class Stream {
 public:
  explicit Stream(Device device)
      : device_(std::move(device)),
        stream_(must(device_.cuda->create_stream(device_.index, false))) {}
  ~Stream() { device_.cuda->destroy_stream(device_.index, stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void* native() const noexcept { return stream_; }
  void copy(std::span<const CopyItem> items) {
    must(device_.cuda->copy(device_.index, items, stream_));
  }
  /// Blocks until what was queued on this stream is over.
  void await() {
    Event end(device_, false);
    end.record(stream_);
    end.await();
  }

 private:
  Device device_;
  weightcast::driver::Stream stream_ = nullptr;
};

/// What this process, and all processes on its device, have taken.
inline json taken(const Device& device, Memory& memory) {
  const auto count = [](const char* folder) {
    const std::filesystem::directory_iterator entries(folder);
    return std::distance(begin(entries), end(entries));
  };
  const auto room = must(device.cuda->memory(device.index));
  return {{"device_free", room.free},
          {"device_total", room.total},
          {"host", memory.report()},
          {"descriptors", count("/proc/self/fd") - 1},  // the folder itself is open, too
          {"threads", count("/proc/self/task")},
          {"at_ns", now_ns()}};
}

/// In microseconds: {count, p50, p99, max} of nanoseconds.
inline json spread(std::vector<std::int64_t> values) {
  if (values.empty()) return {{"count", 0}};
  std::sort(values.begin(), values.end());
  const auto at = [&](double part) {
    const auto index = static_cast<std::size_t>(part * static_cast<double>(values.size()));
    return static_cast<double>(values[std::min(values.size() - 1, index)]) / 1e3;
  };
  return {{"count", values.size()}, {"p50", at(0.5)}, {"p99", at(0.99)}, {"max", at(1)}};
}

}  // namespace bench
