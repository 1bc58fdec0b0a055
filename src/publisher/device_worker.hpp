// The thread behind a DeviceCapture: queues a capture's chunks, watches them end, reports.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "publisher/capture_pace.hpp"
#include "publisher/deferred_wake.hpp"
#include "publisher/device_capture.hpp"
#include "publisher/device_lane.hpp"

namespace weightcast::publisher {

class DeviceWorker {
 public:
  DeviceWorker(DeviceCaptureOptions options, std::unique_ptr<DeviceLane> lane);

  void run();
  bool wait(Deadline deadline) noexcept;
  bool cancel() noexcept;
  /// Ends run(). @return false where it has not ended in time, and will never call `done` again
  bool stop() noexcept;
  bool is_hung() const noexcept { return is_hung_; }
  Capturer::StreamWaits stream_waits() const noexcept;

 protected:
  enum class State { kIdle, kRunning, kFinishing };

  void wake_soon() noexcept;
  void wake_now() noexcept;
  /// Once a capture: whether the tensors stood still. With the mutex.
  void judge() noexcept;
  /// The device is not used again. With the mutex.
  void lose(const Status& status);

  DeviceCaptureOptions options_;
  std::unique_ptr<DeviceLane> lane_;
  DeferredWake wake_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // any of what follows
  State state_ = State::kIdle;
  bool is_stopping_ = false;
  bool has_ended_ = false;     // run()
  bool is_abandoned_ = false;  // `done` must not be called
  bool is_calling_ = false;    // `done` is being called
  bool is_hung_ = false;       // set by the worker before it ends
  Clock::time_point stop_by_{};
  std::optional<Status> lost_;  // the device, for good
  CapturePace pace_;
  Capturer::StreamWaits waits_;
  bool is_window_open_ = false;  // the fence of this capture, or of the last one, is marked

  // One capture. `request_` and `done_` are written by start() while nothing runs, and by the worker.
  CaptureRequest request_;
  Capturer::Done done_;
  Clock::time_point started_{};
  Status failure_;                 // the first one; the rest is not queued
  std::optional<Status> verdict_;  // of `unchanged`
  bool is_cancelled_ = false;
  bool is_hurried_ = false;    // all is to be queued, without holding back
  bool is_submitted_ = false;  // all is queued
  bool is_fenced_ = false;     // the trainer has been let go on
  bool did_wait_ = false;      // and its stream waits

 private:
  bool wait_for_work();
  void capture();
  Status move();
  Status move_chunks(std::uint32_t chunks);
  Status look(std::uint32_t submitted);
  Status stopped() const;
  void pause() noexcept;
  bool drain(Status& status);
  void finish(Status status);
  void measure();

  // The worker's own.
  std::uint32_t over_ = 0;  // chunks of this capture
  std::uint64_t moved_ = 0;  // their bytes
  bool has_begun_ = false;   // the trainer's stream has come to it
  Clock::time_point progress_{};
};

}  // namespace weightcast::publisher
