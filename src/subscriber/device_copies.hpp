// Copies to a device's memory that are under way: a stream for each direction, and a fixed number of
// batches at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "driver/cuda.hpp"

namespace weightcast::subscriber {

/// Where bytes come from, which is the stream that they take.
enum class CopyWay { kFromHost, kFromDevice };

/// Thread safety: one thread, but for stream().
class DeviceCopies {
 public:
  static constexpr std::size_t kBatches = 8;  ///< under way at once
  static constexpr std::size_t kItems = 1024;  ///< of a batch

  static Result<std::unique_ptr<DeviceCopies>> make(std::shared_ptr<driver::Cuda> cuda, int device);
  ~DeviceCopies();
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;

  /// Where finished batches' bytes are counted from here on; null: nowhere.
  void count_in(std::atomic<std::uint64_t>* placed) noexcept { placed_ = placed; }
  /// Queues a batch, once there is room for it.
  Status submit(CopyWay way, std::span<const driver::CopyItem> items, std::uint64_t bytes);
  /// Takes what is over, without waiting.
  Status poll();
  /// Waits until nothing is under way.
  Status finish();
  /// The same after a failure, which may have left work behind that no event tells of.
  void drain() noexcept;

  driver::Stream stream(CopyWay way) const noexcept { return streams_[static_cast<std::size_t>(way)]; }

 private:
  struct Batch {
    driver::Event event = nullptr;
    std::uint64_t bytes = 0;
  };
  DeviceCopies(std::shared_ptr<driver::Cuda> cuda, int device)
      : cuda_(std::move(cuda)), device_(device) {}
  Status wait_for_fewer_than(std::size_t batches);

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  driver::Stream streams_[2] = {nullptr, nullptr};
  std::vector<driver::Event> free_;
  std::vector<Batch> under_way_;
  std::atomic<std::uint64_t>* placed_ = nullptr;
};

/// Waits until an event is over. @return what Cuda::done says where that is an error
Status wait_for_event(driver::Cuda& cuda, int device, driver::Event event);

}  // namespace weightcast::subscriber
