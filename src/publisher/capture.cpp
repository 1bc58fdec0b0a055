#include "publisher/capture.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "base/trace.hpp"
#include "codec/convert.hpp"
#include "codec/digest.hpp"
#include "plan/manifest.hpp"
#include "publisher/deferred_wake.hpp"

namespace weightcast::publisher {
namespace {

// What a cast or a gather goes through on its way to the slot: small enough to stay in the
// second-level cache, a multiple of 8 elements of every dtype.
constexpr std::uint64_t kScratchBytes = 128 * 1024;

// Chunks begin on a cache line of the slot, so that streaming stores fill whole lines.
constexpr std::uint64_t kChunkStep = plan::kAlignment;

// By then start() and the publish point that called it have returned.
constexpr auto kWakeDelay = std::chrono::microseconds(100);

// Published bytes [begin, end) of one tensor.
struct Chunk {
  const TensorView* from = nullptr;
  DType to = DType::kF32;
  bool direct = false;              // contiguous and not cast
  std::byte* destination = nullptr;  // of the tensor's first byte; null where only the digest counts
  std::uint32_t sum = 0;            // which sum its digest goes to
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct AtomicDigest {
  std::atomic<std::uint64_t> a{0};
  std::atomic<std::uint64_t> b{0};
};

Status copy_chunk(const Chunk& chunk, std::byte* scratch, base::Digest& sum) {
  if (chunk.direct) {
    const auto* source = static_cast<const std::byte*>(chunk.from->data) + chunk.begin;
    const std::uint64_t bytes = chunk.end - chunk.begin;
    sum = chunk.destination == nullptr
              ? codec::digest(source, bytes, chunk.begin / 8)
              : codec::copy_and_digest(chunk.destination + chunk.begin, source, bytes,
                                       chunk.begin / 8);
    return Status::ok();
  }
  const std::uint64_t element = dtype_size(chunk.to);
  for (std::uint64_t at = chunk.begin; at < chunk.end;) {
    const std::uint64_t bytes = std::min(kScratchBytes, chunk.end - at);
    Status status = codec::gather(scratch, chunk.to, *chunk.from, at / element, bytes / element);
    if (!status) return status;
    sum += chunk.destination == nullptr
               ? codec::digest(scratch, bytes, at / 8)
               : codec::copy_and_digest(chunk.destination + at, scratch, bytes, at / 8);
    at += bytes;
  }
  return Status::ok();
}

}  // namespace

struct CapturePool::Impl {
  enum class State { kIdle, kRunning, kFinishing };

  explicit Impl(const CaptureOptions& given) : options(given), caller_scratch(kScratchBytes) {
    options.chunk_bytes =
        std::max(kChunkStep, options.chunk_bytes / kChunkStep * kChunkStep);
  }

  void prepare();
  void add_tensor(std::uint32_t tensor, std::byte* destination, std::uint32_t sum);
  void copy_one(const Chunk& chunk, std::byte* scratch);
  void add_to_sum(std::uint32_t index, const base::Digest& digest) noexcept;
  void copy_chunks(std::byte* scratch);
  void finish();
  void run_worker(std::uint32_t number);
  bool has_work(std::uint64_t joined) const noexcept {
    return stopping || (state == State::kRunning && joined != number);
  }
  void wait_for_work(std::uint32_t worker, std::uint64_t joined, std::unique_lock<std::mutex>& lock);

  CaptureOptions options;
  std::vector<std::byte> caller_scratch;  // of the thread that calls start()
  std::vector<std::thread> workers;

  DeferredWake wake;  // of worker 0, which wakes the others
  std::mutex mutex;
  std::condition_variable work;  // state became kRunning, or stopping
  std::condition_variable idle;  // state became kIdle
  State state = State::kIdle;
  std::uint64_t number = 0;  // of captures; a worker joins each at most once
  std::uint32_t inside = 0;  // workers that are copying
  bool stopping = false;
  Status failure;  // the first one

  // One capture. Written while kIdle by start() and while kFinishing by the one who finishes; read
  // by workers that joined under the mutex.
  CaptureRequest request;
  std::function<void(CaptureResult)> done;
  Clock::time_point started;
  std::vector<Chunk> chunks;
  std::vector<AtomicDigest> sums;  // one an item of the layout, then one for all other tensors
  std::vector<bool> is_item;       // by tensor; used for the whole policy's digest
  std::atomic<std::size_t> next{0};
  std::atomic<bool> cancelled{false};
};

void CapturePool::Impl::add_to_sum(std::uint32_t index, const base::Digest& digest) noexcept {
  sums[index].a.fetch_add(digest.a, std::memory_order_relaxed);
  sums[index].b.fetch_add(digest.b, std::memory_order_relaxed);
}

void CapturePool::Impl::copy_one(const Chunk& chunk, std::byte* scratch) {
  base::Digest sum;
  if (Status status = copy_chunk(chunk, scratch, sum); !status) {
    const std::lock_guard lock(mutex);
    if (failure.is_ok()) failure = std::move(status);
    return;
  }
  add_to_sum(chunk.sum, sum);
}

// Copies a tensor at once or adds its chunks to the list.
void CapturePool::Impl::add_tensor(std::uint32_t tensor, std::byte* destination,
                                   std::uint32_t sum) {
  const TensorView& view = request.list.tensors[tensor];
  const TensorInfo& published = request.published[tensor];
  Chunk chunk;
  chunk.from = &view;
  chunk.to = published.dtype;
  chunk.direct = view.info.dtype == published.dtype && codec::is_contiguous(view);
  chunk.destination = destination;
  chunk.sum = sum;
  const std::uint64_t bytes = published.bytes();
  if (bytes == 0) return;
  if (view.info.buffer || published.buffer || bytes <= options.inline_bytes || workers.empty()) {
    chunk.end = bytes;
    copy_one(chunk, caller_scratch.data());
    return;
  }
  for (std::uint64_t at = 0; at < bytes; at = chunk.end) {
    chunk.begin = at;
    chunk.end = std::min(bytes, at + options.chunk_bytes);
    chunks.push_back(chunk);
  }
}

void CapturePool::Impl::prepare() {
  const auto& items = request.layout.items;
  const auto rest = static_cast<std::uint32_t>(items.size());
  if (sums.size() < items.size() + 1) sums = std::vector<AtomicDigest>(items.size() + 1);
  for (std::size_t i = 0; i <= items.size(); ++i) {
    sums[i].a.store(0, std::memory_order_relaxed);
    sums[i].b.store(0, std::memory_order_relaxed);
  }
  chunks.clear();
  next.store(0, std::memory_order_relaxed);
  cancelled.store(false, std::memory_order_relaxed);
  failure = Status::ok();

  for (std::uint32_t i = 0; i < rest; ++i) {
    add_tensor(items[i].tensor, request.payload.data() + items[i].offset, i);
  }
  if (!request.whole_policy_digest) return;
  is_item.assign(request.list.tensors.size(), false);
  for (const auto& item : items) is_item[item.tensor] = true;
  for (std::uint32_t i = 0; i < request.list.tensors.size(); ++i) {
    if (!is_item[i] && is_compared(request.published[i])) add_tensor(i, nullptr, rest);
  }
}

// Called by whoever saw the last copy end and set kFinishing, without the mutex.
void CapturePool::Impl::finish() {
  CaptureResult result;
  result.busy = Clock::now() - started;
  // Declared first and so freed last: the trainer does not wait until its tensors are let go.
  const CaptureRequest ended = std::exchange(request, CaptureRequest{});
  const std::function<void(CaptureResult)> call = std::exchange(done, nullptr);
  if (cancelled.load(std::memory_order_relaxed)) {
    result.status = {Code::kCancelled, "the capture was cancelled before its copies had ended"};
  } else {
    const std::lock_guard lock(mutex);
    result.status = std::exchange(failure, Status::ok());
  }

  if (const Status unchanged = check_unchanged(ended.list); result.status.is_ok()) {
    result.status = unchanged;
  }
  std::vector<base::Digest> totals(ended.layout.items.size() + 1);
  for (std::size_t i = 0; i < totals.size(); ++i) {
    totals[i] = {sums[i].a.load(std::memory_order_relaxed),
                 sums[i].b.load(std::memory_order_relaxed)};
  }
  fill_digests(ended, totals, result);
  if (call) {
    try {
      call(std::move(result));
    } catch (...) {
      // Nothing may leave a worker's entry, and the waiters below must be let go.
    }
  }

  const std::lock_guard lock(mutex);
  state = State::kIdle;
  idle.notify_all();
}

void CapturePool::Impl::copy_chunks(std::byte* scratch) {
  base::TraceScope span("capture", "copy", {.version = request.version, .bytes = 0});
  while (!cancelled.load(std::memory_order_relaxed)) {
    const std::size_t i = next.fetch_add(1, std::memory_order_relaxed);
    if (i >= chunks.size()) break;
    copy_one(chunks[i], scratch);
    span.args().bytes += static_cast<std::int64_t>(chunks[i].end - chunks[i].begin);
  }
  if (span.args().bytes == 0) span.cancel();
}

void CapturePool::Impl::wait_for_work(std::uint32_t worker, std::uint64_t joined,
                                      std::unique_lock<std::mutex>& lock) {
  if (worker != 0 || !wake.works()) {
    work.wait(lock, [&] { return has_work(joined); });
    return;
  }
  while (!has_work(joined)) {
    lock.unlock();
    wake.wait();
    lock.lock();
  }
  work.notify_all();
}

void CapturePool::Impl::run_worker(std::uint32_t worker) {
  char name[16];
  std::snprintf(name, sizeof name, "wc-capture-%u", worker);
  pthread_setname_np(pthread_self(), name);
  // Batch threads do not preempt the trainer when they wake. Where it is refused nothing is lost
  // but that.
  const sched_param none{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);

  std::vector<std::byte> scratch(kScratchBytes);
  std::uint64_t joined = 0;
  std::unique_lock lock(mutex);
  for (;;) {
    wait_for_work(worker, joined, lock);
    if (state != State::kRunning || joined == number) return;
    joined = number;
    ++inside;
    lock.unlock();
    copy_chunks(scratch.data());
    lock.lock();
    // All chunks are taken or dropped here, so the last one out saw the last copy end.
    if (--inside == 0 && state == State::kRunning) {
      state = State::kFinishing;
      lock.unlock();
      finish();
      lock.lock();
    }
  }
}

CapturePool::CapturePool(const CaptureOptions& options) : impl_(std::make_unique<Impl>(options)) {
  // The trainer's signal handlers run on its own threads.
  sigset_t all, before;
  sigfillset(&all);
  const bool masked = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
  const std::uint32_t count = std::max(1u, options.threads);
  impl_->workers.reserve(count);
  try {
    for (std::uint32_t i = 0; i < count; ++i) {
      impl_->workers.emplace_back([impl = impl_.get(), i] { impl->run_worker(i); });
    }
  } catch (const std::exception&) {
    // With fewer threads the copies take longer; with none, start() makes them itself.
  }
  if (masked) pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

CapturePool::~CapturePool() {
  cancel();
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    impl_->work.notify_all();
  }
  impl_->wake.wake_in({});
  for (std::thread& worker : impl_->workers) worker.join();
}

Status CapturePool::start(CaptureRequest request, Done done) {
  Impl& impl = *impl_;
  if (Status s = check_request(request); !s) return s;
  std::unique_lock lock(impl.mutex);
  if (impl.state != Impl::State::kIdle) {
    return {Code::kInvalid, "a capture is running; wait() for it before start() of the next one"};
  }
  // Keeps a second start() out while the small tensors are copied without the mutex.
  impl.state = Impl::State::kFinishing;
  lock.unlock();
  impl.started = Clock::now();
  impl.request = std::move(request);
  impl.done = std::move(done);
  try {
    const base::TraceScope span("capture", "small tensors", {.version = impl.request.version});
    impl.prepare();
  } catch (const std::exception& error) {
    impl.request = {};
    impl.done = nullptr;
    lock.lock();
    impl.state = Impl::State::kIdle;
    return {Code::kExhausted, std::string("no memory to plan a capture: ") + error.what()};
  }
  if (impl.chunks.empty()) {
    impl.finish();
    return Status::ok();
  }
  lock.lock();
  ++impl.number;
  impl.state = Impl::State::kRunning;
  lock.unlock();
  if (impl.wake.works()) {
    impl.wake.wake_in(kWakeDelay);
  } else {
    impl.work.notify_all();
  }
  return Status::ok();
}

bool CapturePool::wait(Deadline deadline) noexcept {
  std::unique_lock lock(impl_->mutex);
  const bool begun = impl_->inside != 0 || impl_->next.load(std::memory_order_relaxed) != 0;
  if (impl_->state == Impl::State::kRunning && !begun) impl_->wake.wake_in({});
  return impl_->idle.wait_until(lock, deadline,
                                [this] { return impl_->state == Impl::State::kIdle; });
}

bool CapturePool::cancel() noexcept {
  const std::lock_guard lock(impl_->mutex);
  if (impl_->state != Impl::State::kRunning) return false;
  impl_->cancelled.store(true, std::memory_order_relaxed);
  return true;
}

}  // namespace weightcast::publisher
