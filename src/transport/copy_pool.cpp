#include "transport/copy_pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "base/signal_mask.hpp"
#include "base/trace.hpp"
#include "transport/bucket_runs.hpp"

namespace weightcast::transport {
namespace {

/// Bytes between two looks at whether the lane was aborted: some 25 us of copying.
constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

Status cancelled() {
  return Status(Code::kCancelled, "the lane was aborted before this bucket began");
}

}  // namespace

CopyPool::~CopyPool() {
  abort();
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

Status CopyPool::start() {
  if (!threads_.empty()) return Status::ok();
  const base::ScopedSignalMask masked;
  try {
    while (threads_.size() < wanted_) threads_.emplace_back(&CopyPool::run, this, threads_.size());
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

void CopyPool::put(Job job) {
  {
    const std::lock_guard guard(mutex_);
    if (!aborted_.load()) {
      waiting_.push_back(std::move(job));
      work_.notify_one();
      return;
    }
  }
  const std::uint64_t id = job.bucket.id;
  job = Job{};
  flight_.end({id, cancelled()});
}

void CopyPool::abort() noexcept {
  std::deque<Job> given_up;
  {
    const std::lock_guard guard(mutex_);
    aborted_.store(true);
    given_up.swap(waiting_);
  }
  while (!given_up.empty()) {
    const std::uint64_t id = given_up.front().bucket.id;
    given_up.pop_front();  // and with it what it holds, before anybody hears of it
    flight_.end({id, cancelled()});
  }
}

void CopyPool::run(std::size_t index) {
  ::pthread_setname_np(::pthread_self(), ("wc-copy-" + std::to_string(index)).c_str());
  // Woken, a batch thread does not preempt the engine's own; refused, it works all the same.
  sched_param no_priority{};
  ::pthread_setschedparam(::pthread_self(), SCHED_BATCH, &no_priority);

  while (true) {
    Completion completion;
    {  // the job lets go of what it holds before its completion can be seen
      Job job;
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        job = std::move(waiting_.front());
        waiting_.pop_front();
      }
      if (job.admit && !job.admit(job)) continue;
      completion = {job.bucket.id, copy(job)};
    }
    flight_.end(std::move(completion));
  }
}

Status CopyPool::copy(const Job& job) noexcept {
  const base::TraceScope span("place", "copy and verify",
                              {.version = job.version,
                               .bucket = static_cast<std::int64_t>(job.bucket.id),
                               .bytes = static_cast<std::int64_t>(job.bytes)});
  if (job.bring) return job.bring(job, aborted_);
  std::byte* const to = job.bucket.destination.data();
  const bool ended = each_piece(job.payload, job.offset, job.bytes, job.bucket.strips, kPieceBytes,
                                [&](std::size_t at, std::span<const std::byte> piece) {
                                  if (aborted_.load(std::memory_order_relaxed)) return false;
                                  if (job.bucket.place) {
                                    job.bucket.place(at, piece);
                                  } else {
                                    std::memcpy(to + at, piece.data(), piece.size());
                                  }
                                  return true;
                                });
  if (ended) return Status::ok();
  return Status(Code::kCancelled, "the lane was aborted while this bucket was being copied");
}

}  // namespace weightcast::transport
