#include "transport/shm/copy_pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "base/signal_mask.hpp"

namespace weightcast::transport {
namespace {

/// Bytes between two looks at whether the lane was aborted: some 25 us of copying.
constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

}  // namespace

CopyPool::CopyPool(const LaneOptions& options, base::UniqueFd event)
    : options_(options), event_(std::move(event)) {}

CopyPool::~CopyPool() {
  abort();
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Status CopyPool::start_threads() {
  const base::ScopedSignalMask masked;
  try {
    while (threads_.size() < options_.copy_threads) {
      threads_.emplace_back(&CopyPool::run, this, threads_.size());
    }
  } catch (const std::system_error& error) {
    // Fewer than asked for still copy everything.
    if (threads_.empty()) {
      return Status(Code::kExhausted, std::string("cannot start a copy thread: ") + error.what() +
                                          "; raise the limit on threads (ulimit -u, the "
                                          "container's pids limit)");
    }
  }
  return Status::ok();
}

Status CopyPool::submit(Job job) {
  {
    const std::lock_guard guard(mutex_);
    if (closed_) {
      return Status(Code::kCancelled,
                    "the lane was closed and takes no more buckets; open another");
    }
    const std::size_t in_flight = waiting_.size() + copying_ + done_.size();
    if (in_flight >= options_.max_in_flight) {
      return Status(Code::kExhausted, std::to_string(in_flight) +
                                          " buckets are in flight, as many "
                                          "as max_in_flight allows: poll their completions first");
    }
  }
  // Only this thread adds jobs, so there is room still.
  if (threads_.empty()) {
    if (Status started = start_threads(); !started) return started;
  }
  {
    const std::lock_guard guard(mutex_);
    waiting_.push_back(std::move(job));
  }
  work_.notify_one();
  return Status::ok();
}

std::size_t CopyPool::poll(std::span<Completion> out) {
  const std::lock_guard guard(mutex_);
  std::size_t count = 0;
  while (count < out.size() && !done_.empty()) {
    out[count++] = std::move(done_.front());
    done_.pop_front();
  }
  if (count > 0 && done_.empty()) {
    std::uint64_t events = 0;
    (void)!::read(event_.get(), &events, sizeof events);
  }
  return count;
}

Status CopyPool::close(Deadline deadline) {
  std::unique_lock lock(mutex_);
  closed_ = true;
  if (!idle_.wait_until(lock, deadline, [&] { return waiting_.empty() && copying_ == 0; })) {
    return Status(Code::kDeadline, std::to_string(waiting_.size() + copying_) +
                                       " buckets were still in flight at the deadline; wait longer "
                                       "or abort the lane");
  }
  return Status::ok();
}

void CopyPool::abort() noexcept {
  aborted_.store(true);
  const std::lock_guard guard(mutex_);
  closed_ = true;
  while (!waiting_.empty()) {
    const std::uint64_t id = waiting_.front().bucket.id;
    waiting_.pop_front();  // and with it the segment, before anybody hears of it
    complete({id, Status(Code::kCancelled, "the lane was aborted before this bucket began")});
  }
  if (copying_ == 0) idle_.notify_all();
}

void CopyPool::complete(Completion completion) {
  if (done_.empty()) {
    const std::uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }
  done_.push_back(std::move(completion));
}

void CopyPool::run(std::size_t index) {
  ::pthread_setname_np(::pthread_self(), ("wc-copy-" + std::to_string(index)).c_str());
  // Woken, a batch thread does not preempt the engine's own; refused, it works all the same.
  sched_param no_priority{};
  ::pthread_setschedparam(::pthread_self(), SCHED_BATCH, &no_priority);

  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    Completion completion;
    {  // the job lets go of its segment before its completion can be seen
      Job job = std::move(waiting_.front());
      waiting_.pop_front();
      ++copying_;
      lock.unlock();
      completion = {job.bucket.id, copy(job)};
    }
    lock.lock();
    --copying_;
    complete(std::move(completion));
    if (waiting_.empty() && copying_ == 0) idle_.notify_all();
  }
}

Status CopyPool::copy(const Job& job) noexcept {
  const std::span<std::byte> to = job.bucket.destination;
  for (std::size_t at = 0; at < to.size(); at += kPieceBytes) {
    if (aborted_.load(std::memory_order_relaxed)) {
      return Status(Code::kCancelled, "the lane was aborted while this bucket was being copied");
    }
    const auto piece = job.source.subspan(at, std::min(kPieceBytes, to.size() - at));
    if (job.bucket.place) {
      job.bucket.place(at, piece);
    } else {
      std::memcpy(to.data() + at, piece.data(), piece.size());
    }
  }
  return Status::ok();
}

}  // namespace weightcast::transport
