#include "publisher/device_capture.hpp"

#include <utility>
#include <vector>

#include "base/signal_mask.hpp"
#include "publisher/device_worker.hpp"

namespace weightcast::publisher {

/// The trainer's side; the worker's is DeviceWorker.
class DeviceCapture::Impl : public DeviceWorker {
 public:
  using DeviceWorker::DeviceWorker;

  Status start(CaptureRequest request, Done done);
  bool fence(Deadline deadline) noexcept;
  void launch(const std::shared_ptr<Impl>& self);
  static void end(std::shared_ptr<Impl> impl) noexcept;

 private:
  bool give_up_fence(Status status) noexcept;
  std::thread thread_;
};

Status DeviceCapture::Impl::start(CaptureRequest request, Done done) {
  if (Status s = check_request(request); !s) return s;
  std::unique_lock lock(mutex_);
  if (lost_) return *lost_;
  if (state_ != State::kIdle) {
    return {Code::kInvalid, "a capture is running; wait() for it before start() of the next one"};
  }
  // Nobody else looks at what follows until it is kRunning.
  state_ = State::kFinishing;
  lock.unlock();
  Status fitted;
  try {
    fitted = lane_->fit(request, options_.payload_on_device);
  } catch (const std::exception& error) {
    fitted = {Code::kExhausted, std::string("no memory to plan a capture: ") + error.what()};
  }
  std::optional<std::chrono::nanoseconds> window;
  if (fitted && std::exchange(is_window_open_, false)) window = lane_->from_start_to_fence();
  Status failure = fitted ? lane_->snapshot(request) : fitted;
  lock.lock();
  if (!fitted) {
    state_ = State::kIdle;
    if (fitted.code() == Code::kUnavailable) lose(fitted);
    return fitted;
  }
  if (window) pace_.measured_window(*window);
  pace_.begin(lane_->plan().own_bytes);
  request_ = std::move(request);
  done_ = std::move(done);
  failure_ = std::move(failure);  // the worker waits for what runs of it, and reports it
  verdict_.reset();
  is_cancelled_ = is_submitted_ = is_fenced_ = did_wait_ = false;
  started_ = Clock::now();
  // Where a fence will surely be passed, nothing is held back that it would have to wait for.
  is_hurried_ = pace_.expected_wait(started_) <= options_.stall;
  state_ = State::kRunning;
  lock.unlock();
  wake_soon();
  return Status::ok();
}

/// An error of CUDA's in a fence: the capture is void, so there is nothing to wait for.
bool DeviceCapture::Impl::give_up_fence(Status status) noexcept {
  if (failure_.is_ok()) failure_ = std::move(status);
  changed_.notify_all();
  return true;
}

bool DeviceCapture::Impl::fence(Deadline deadline) noexcept {
  std::unique_lock lock(mutex_);
  if (state_ != State::kRunning || is_fenced_ || is_cancelled_ || !failure_.is_ok()) return true;
  const driver::Stream trainer = request_.list.stream;
  if (!is_window_open_) {
    if (Status s = lane_->mark_fence(trainer); !s) return give_up_fence(std::move(s));
    is_window_open_ = true;
  }
  if (is_submitted_) {
    const auto over = lane_->is_over();
    if (!over) return give_up_fence(over.status());
    if (*over) {
      judge();
      return is_fenced_ = true;
    }
  }
  const auto now = Clock::now();
  if (pace_.expected_wait(now) > std::max(deadline - now, Duration(0))) return false;
  is_hurried_ = true;
  changed_.notify_all();
  wake_now();
  const bool ended = changed_.wait_until(lock, deadline, [this] {
    return is_submitted_ || !failure_.is_ok() || state_ != State::kRunning;
  });
  if (!ended) return false;
  if (state_ != State::kRunning || !failure_.is_ok()) return true;
  if (Status s = lane_->let_trainer_wait(trainer); !s) return give_up_fence(std::move(s));
  // What the trainer writes from here on comes after the copies on the device, though the copies may
  // end after it on the clock: it is no change.
  judge();
  did_wait_ = true;
  return is_fenced_ = true;
}

void DeviceCapture::Impl::launch(const std::shared_ptr<Impl>& self) {
  const base::ScopedSignalMask masked;
  thread_ = std::thread([self] { self->run(); });
}

void DeviceCapture::Impl::end(std::shared_ptr<Impl> impl) noexcept {
  if (impl->stop()) {
    impl->thread_.join();
    if (!impl->is_hung()) return;
  } else {
    impl->thread_.detach();
  }
  // The device may still write to this memory at any time: it stays for the life of the process.
  static auto* const kept = new std::vector<std::shared_ptr<Impl>>;
  static std::mutex keeping;
  const std::lock_guard lock(keeping);
  kept->push_back(std::move(impl));
}

Result<std::unique_ptr<DeviceCapture>> DeviceCapture::create(DeviceCaptureOptions options,
                                                             const CaptureRequest& first) {
  if (Status s = check_request(first); !s) return s;
  auto lane = DeviceLane::create(
      options.cuda, options.device,
      {.moved = options.payload_on_device ? options.device_chunk_bytes : options.chunk_bytes,
       .digested = options.chunk_bytes});
  if (!lane) return lane.status();
  if (Status s = (*lane)->fit(first, options.payload_on_device); !s) return s;
  auto impl = std::make_shared<Impl>(std::move(options), std::move(*lane));
  impl->launch(impl);
  return std::unique_ptr<DeviceCapture>(new DeviceCapture(std::move(impl)));
}

DeviceCapture::~DeviceCapture() { Impl::end(std::move(impl_)); }

Status DeviceCapture::start(CaptureRequest request, Done done) {
  return impl_->start(std::move(request), std::move(done));
}
bool DeviceCapture::wait(Deadline deadline) noexcept { return impl_->wait(deadline); }
bool DeviceCapture::fence(Deadline deadline) noexcept { return impl_->fence(deadline); }
bool DeviceCapture::cancel() noexcept { return impl_->cancel(); }
Capturer::StreamWaits DeviceCapture::stream_waits() const noexcept {
  return impl_->stream_waits();
}

}  // namespace weightcast::publisher
