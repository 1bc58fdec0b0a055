#include "publisher/device_worker.hpp"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/log.hpp"
#include "base/trace.hpp"

namespace weightcast::publisher {
namespace {

// Chunks that are queued and not over, where it is open whether the fence will let them end: after a
// fence that gives up, no more than these go on.
constexpr std::uint32_t kAhead = 4;

// Between two looks at the device: a tenth of a chunk's time.
constexpr auto kPause = std::chrono::microseconds(100);

// By then start() and the publish point that called it have returned.
constexpr auto kWorkerWakeDelay = std::chrono::microseconds(50);

// Looks that fail in a row: then nothing runs on the device, which will not say so any more.
constexpr int kMostErrors = 4;

// Bytes a second before a capture was measured: of the slowest bus that is in use, and of the
// memory of a device.
constexpr double kHostRate = 10e9;
constexpr double kDeviceRate = 200e9;

}  // namespace

DeviceWorker::DeviceWorker(DeviceCaptureOptions options, std::unique_ptr<DeviceLane> lane)
    : options_(std::move(options)),
      lane_(std::move(lane)),
      pace_(options_.payload_on_device ? kDeviceRate : kHostRate) {}

// ---- the trainer's thread ----------------------------------------------------------------------

void DeviceWorker::wake_soon() noexcept {
  if (wake_.works()) {
    wake_.wake_in(kWorkerWakeDelay);
  } else {
    changed_.notify_all();
  }
}

void DeviceWorker::wake_now() noexcept {
  if (wake_.works()) wake_.wake_in({});
}

void DeviceWorker::judge() noexcept {
  if (!verdict_) verdict_ = check_unchanged(request_.list);
}

bool DeviceWorker::wait(Deadline deadline) noexcept {
  std::unique_lock lock(mutex_);
  if (state_ == State::kRunning) wake_now();
  return changed_.wait_until(lock, deadline, [this] { return state_ == State::kIdle; });
}

bool DeviceWorker::cancel() noexcept {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kRunning) return false;
  is_cancelled_ = true;
  changed_.notify_all();
  wake_now();
  return true;
}

bool DeviceWorker::stop() noexcept {
  std::unique_lock lock(mutex_);
  if (state_ == State::kRunning) is_cancelled_ = true;
  is_stopping_ = true;
  stop_by_ = Clock::now() + options_.farewell;
  changed_.notify_all();
  wake_now();
  // Twice: the worker itself gives the device up at the first; the second is for one that does not
  // come back from a call.
  const bool ended = changed_.wait_until(lock, stop_by_ + options_.farewell,
                                         [this] { return has_ended_; });
  if (ended) return true;
  is_abandoned_ = true;
  changed_.wait(lock, [this] { return !is_calling_; });
  return false;
}

Capturer::StreamWaits DeviceWorker::stream_waits() const noexcept {
  const std::lock_guard lock(mutex_);
  return waits_;
}

// ---- the worker --------------------------------------------------------------------------------

bool DeviceWorker::wait_for_work() {
  std::unique_lock lock(mutex_);
  const auto has_work = [this] { return is_stopping_ || state_ == State::kRunning; };
  while (!has_work()) {
    if (!wake_.works()) {
      changed_.wait(lock, has_work);
      break;
    }
    lock.unlock();
    wake_.wait();
    lock.lock();
  }
  return state_ == State::kRunning;
}

void DeviceWorker::run() {
  pthread_setname_np(pthread_self(), "wc-capture-dev");
  // As the copy threads: it never preempts the trainer when it wakes.
  const sched_param none{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
  while (wait_for_work()) capture();
  const std::lock_guard lock(mutex_);
  has_ended_ = true;
  changed_.notify_all();
}

/// Why nothing more is to be queued.
Status DeviceWorker::stopped() const {
  if (!failure_.is_ok()) return failure_;
  if (is_cancelled_) {
    return {Code::kCancelled, "the capture was cancelled before its copies had ended"};
  }
  return Status::ok();
}

void DeviceWorker::pause() noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, kPause);
}

/// Sees what has ended and raises the watermark.
Status DeviceWorker::look(std::uint32_t submitted) {
  const auto now = Clock::now();
  if (!has_begun_) {
    const auto begun = lane_->has_started();
    if (!begun) return begun.status();
    if (!*begun) return Status::ok();
    has_begun_ = true;
    progress_ = now;
    const std::lock_guard lock(mutex_);
    pace_.started(now);
  }
  const std::uint32_t ours = std::min(submitted, lane_->plan().own_chunks);
  while (over_ < ours) {
    const auto ended = lane_->chunk_over(over_);
    if (!ended) return ended.status();
    if (!*ended) break;
    const DeviceChunk& chunk = lane_->plan().chunks[over_];
    if (request_.written) request_.written(chunk.offset + chunk.bytes);
    moved_ += chunk.bytes;
    base::trace_span(options_.payload_on_device ? "d2d" : "d2h", "capture", progress_, now,
                     {.version = request_.version,
                      .bucket = std::int64_t(over_),
                      .bytes = std::int64_t(chunk.bytes)});
    progress_ = now;
    ++over_;
    const std::lock_guard lock(mutex_);
    pace_.progress(moved_);
  }
  if (now - progress_ <= options_.patience) return Status::ok();
  return {Code::kDeadline,
          "device " + std::to_string(options_.device) + " has not moved on for " +
              std::to_string(std::chrono::duration_cast<std::chrono::seconds>(now - progress_)
                                 .count()) +
              " s"};
}

Status DeviceWorker::move_chunks(std::uint32_t chunks) {
  for (std::uint32_t i = 0; i < chunks; ++i) {
    for (;;) {
      if (Status s = look(i); !s) return s;
      bool may_go = false;
      {
        const std::lock_guard lock(mutex_);
        if (Status s = stopped(); !s) return s;
        may_go = is_hurried_ || i < over_ + kAhead || i >= lane_->plan().own_chunks;
      }
      if (may_go) break;
      pause();
    }
    if (Status s = lane_->submit(request_, i); !s) return s;
  }
  return lane_->end();
}

Status DeviceWorker::move() {
  over_ = 0;
  moved_ = 0;
  has_begun_ = false;
  {
    const std::lock_guard lock(mutex_);
    if (Status s = stopped(); !s) return s;
  }
  if (Status s = lane_->begin(request_); !s) return s;
  if (request_.begun) {
    try {
      request_.begun();
    } catch (...) {
      // A hint that is not given costs nobody anything.
    }
  }
  const std::uint32_t chunks = lane_->chunks(request_.whole_policy_digest);
  if (Status s = move_chunks(chunks); !s) return s;
  {
    const std::lock_guard lock(mutex_);
    is_submitted_ = true;
    changed_.notify_all();
  }
  for (;;) {
    if (Status s = look(chunks); !s) return s;
    const auto over = lane_->is_over();
    if (!over) return over.status();
    if (*over) return look(chunks);
    {
      const std::lock_guard lock(mutex_);
      if (Status s = stopped(); !s) return s;
    }
    pause();
  }
}

/// Waits until nothing of a capture that failed runs any more. @return false where that cannot be
/// had: the device hangs
bool DeviceWorker::drain(Status& status) {
  lane_->begin_draining();
  int errors = 0;
  Clock::time_point since = Clock::now();
  for (;;) {
    const auto drained = lane_->drained();
    if (drained && *drained) return true;
    errors = drained ? 0 : errors + 1;
    if (errors >= kMostErrors) {
      status = drained.status();
      return true;
    }
    const auto now = Clock::now();
    // Until the trainer's stream has come to it, it is the trainer's work that is waited for.
    const auto begun = lane_->has_started();
    if (begun && !*begun) since = now;
    std::unique_lock lock(mutex_);
    if (now - since > options_.patience || (is_stopping_ && now > stop_by_)) return false;
    changed_.wait_for(lock, kPause);
  }
}

void DeviceWorker::lose(const Status& status) {
  lost_ = Status(Code::kUnavailable, "device " + std::to_string(options_.device) +
                                         " is lost, and nothing is captured from it any more: " +
                                         status.message());
  base::log(LogLevel::kError, "device_lost",
            {{"device", options_.device},
             {"what", status.message()},
             {"next", "training goes on, engines keep the last version; restart the trainer for "
                      "new ones"}});
}

void DeviceWorker::capture() {
  Status status = move();
  bool is_still = true;
  if (!status) {
    Status after = status;
    is_still = drain(after);
    if (after.code() == Code::kUnavailable) status = std::move(after);
  }
  if (!is_still) {
    const std::lock_guard lock(mutex_);
    is_hung_ = true;
    if (status.code() == Code::kCancelled) {
      status = {Code::kDeadline, "device " + std::to_string(options_.device) +
                                     " has not ended its copies in time"};
    }
  }
  finish(std::move(status));
}

/// With the mutex, of a capture that has ended well.
void DeviceWorker::measure() {
  if (const auto took = lane_->from_start_to_end()) pace_.measured(*took);
  if (!did_wait_) return;
  ++waits_.count;
  // A fence that has not been passed when all is over cost the trainer nothing.
  const auto waited = lane_->from_fence_to_end();
  waits_.last = std::max(waited.value_or(std::chrono::nanoseconds(0)), std::chrono::nanoseconds(0));
}

void DeviceWorker::finish(Status status) {
  CaptureResult result;
  CaptureRequest ended;  // declared first and so freed last: the tensors' last owner may be here
  Capturer::Done call;
  {
    const std::lock_guard lock(mutex_);
    result.busy = Clock::now() - started_;
    if (status) judge();
    // From here on a fence finds nothing to wait for.
    state_ = State::kFinishing;
    if (status) status = stopped();
    if (status) {
      measure();
      status = *verdict_;
    }
    if (is_hung_ || status.code() == Code::kUnavailable) lose(status);
    result.status = std::move(status);
    ended = std::exchange(request_, CaptureRequest{});
    call = std::exchange(done_, nullptr);
    is_calling_ = !is_abandoned_;
    changed_.notify_all();
  }
  if (result.status) fill_digests(ended, lane_->sums(ended.whole_policy_digest), result);
  if (is_calling_ && call) {
    try {
      call(std::move(result));
    } catch (...) {
      // Nothing may leave a thread's entry, and the waiters below must be let go.
    }
  }
  const std::lock_guard lock(mutex_);
  is_calling_ = false;
  state_ = State::kIdle;
  changed_.notify_all();
}

}  // namespace weightcast::publisher
