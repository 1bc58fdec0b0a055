#include "base/trace.hpp"

#include <pthread.h>

#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "base/stage_stats.hpp"
#include "base/trace_file.hpp"
#include "base/trace_ring.hpp"

namespace weightcast::base {
namespace {

constexpr auto kWriteEvery = std::chrono::milliseconds(10);

/// One open trace: the buffer, and the thread that writes it out.
class Tracer {
 public:
  Tracer(UniqueFd file, std::string path, const std::string& process_name, const TraceLimits& limits)
      : path_(std::move(path)),
        ring_(limits.waiting_events),
        writer_(std::move(file), limits.file_bytes, process_name) {}

  void start() {
    const ScopedSignalMask mask;
    thread_ = std::thread([this] { run(); });
  }

  /// Nobody puts any more.
  void finish() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  void put(const TraceEvent& event) noexcept {
    if (!ring_.put(event)) dropped_.fetch_add(1, std::memory_order_relaxed);
  }
  const std::string& path() const noexcept { return path_; }

 private:
  void run() noexcept {
    pthread_setname_np(pthread_self(), "wc-trace");
    // Woken, a batch thread does not preempt those whose work is traced.
    const sched_param none{};
    pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
    bool last = false;
    while (!last) {
      {
        std::unique_lock lock(mutex_);
        last = wake_.wait_for(lock, kWriteEvery, [this] { return stop_; });
      }
      try {
        write(last);
      } catch (const std::bad_alloc&) {
        dropped_.fetch_add(1, std::memory_order_relaxed);
      }
    }
  }

  void write(bool last) {
    TraceEvent event;
    while (ring_.take(event)) {
      if (!writer_.add(event)) dropped_.fetch_add(1, std::memory_order_relaxed);
    }
    const std::uint64_t dropped = dropped_.load(std::memory_order_relaxed);
    if (last) writer_.end(dropped);
    if (Status status = writer_.flush(); !status) {
      log(LogLevel::kWarn, "trace_broken", {{"file", path_}, {"why", status.message()}});
    }
    if (dropped != 0 && !std::exchange(warned_, true)) {
      log(LogLevel::kWarn, "trace_drops",
          {{"file", path_},
           {"what", "spans came faster than they are written, or the file is full; its last event "
                    "says how many are missing"}});
    }
  }

  const std::string path_;
  TraceRing<TraceEvent> ring_;
  std::atomic<std::uint64_t> dropped_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  TraceWriter writer_;  ///< the thread's own, as the next
  bool warned_ = false;
  std::thread thread_;
};

std::atomic<Tracer*> g_tracer{nullptr};
int g_counting = 0;            ///< who wants spans counted; under the door's mutex
std::atomic<int> g_inside{0};  ///< threads between their look at g_tracer and the end of their put

/// Of those who open and close. Never destroyed: threads may close at any time.
std::mutex& door() {
  static auto* const mutex = new std::mutex;
  return *mutex;
}

void close_locked() {
  detail::span_users.fetch_and(~detail::kSpansToFile, std::memory_order_relaxed);
  const std::unique_ptr<Tracer> tracer(g_tracer.exchange(nullptr));
  if (!tracer) return;
  // Who came in before holds it for the time of one put.
  while (g_inside.load() != 0) std::this_thread::yield();
  tracer->finish();
}

/// The parent's thread does not exist in a child, and its file is not the child's: what was the
/// parent's is left where it is, unused. Nor does anybody ask the child what it has counted.
void forget_in_child() {
  detail::span_users.store(0, std::memory_order_relaxed);
  g_counting = 0;
  g_tracer.store(nullptr);
  g_inside.store(0);
  door().unlock();
}

void prepare_process() {
  static const bool once = [] {
    door();
    ::pthread_atfork([] { door().lock(); }, [] { door().unlock(); }, forget_in_child);
    std::atexit([] { close_trace(); });
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

namespace detail {
std::atomic<unsigned> span_users{0};
}

Status open_trace(const std::string& file, const std::string& process_name,
                  const TraceLimits& limits) {
  if (limits.waiting_events == 0 || (limits.waiting_events & (limits.waiting_events - 1)) != 0) {
    return {Code::kInvalid, "expected a power of two of events that may wait, got " +
                                std::to_string(limits.waiting_events)};
  }
  prepare_process();
  const std::lock_guard lock(door());
  close_locked();
  std::string path = file;
  auto made = create_trace_file(path);
  if (!made) return made.status();
  try {
    auto tracer = std::make_unique<Tracer>(std::move(*made), std::move(path), process_name, limits);
    tracer->start();
    g_tracer.store(tracer.release());
  } catch (const std::bad_alloc&) {
    return {Code::kExhausted, "no memory for a trace's events"};
  } catch (const std::system_error& error) {
    return {Code::kExhausted, std::string("cannot start the trace's thread: ") + error.what() +
                                  "; raise the limit on threads (ulimit -u)"};
  }
  detail::span_users.fetch_or(detail::kSpansToFile, std::memory_order_relaxed);
  return Status::ok();
}

void close_trace() noexcept {
  const std::lock_guard lock(door());
  close_locked();
}

std::string trace_file() {
  const std::lock_guard lock(door());
  const Tracer* const tracer = g_tracer.load();
  return tracer == nullptr ? std::string() : tracer->path();
}

void count_stages(bool on) noexcept {
  prepare_process();
  const std::lock_guard lock(door());
  g_counting += on ? 1 : -1;
  if (g_counting > 0) {
    detail::span_users.fetch_or(detail::kSpansToStats, std::memory_order_relaxed);
  } else {
    detail::span_users.fetch_and(~detail::kSpansToStats, std::memory_order_relaxed);
  }
}

void trace_span(std::string_view track, std::string_view name, Clock::time_point begin,
                Clock::time_point end, const TraceArgs& args) noexcept {
  const unsigned users = detail::span_users.load(std::memory_order_relaxed);
  if (users == 0) return;
  end = std::max(begin, end);
  if ((users & detail::kSpansToStats) != 0) count_stage(track, (end - begin).count(), args.bytes);
  if ((users & detail::kSpansToFile) == 0) return;
  TraceEvent event;
  event.track = TraceText(track);
  event.name = TraceText(name);
  event.begin_ns = begin.time_since_epoch().count();
  event.end_ns = end.time_since_epoch().count();
  event.args = args;
  // Both in one total order with close_locked(): either it waits for this thread, or this one finds
  // nothing open.
  g_inside.fetch_add(1);
  if (Tracer* const tracer = g_tracer.load(); tracer != nullptr) tracer->put(event);
  g_inside.fetch_sub(1);
}

}  // namespace weightcast::base
