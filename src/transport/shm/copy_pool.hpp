// Threads that copy buckets, and the queue of their completions.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "base/unique_fd.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Copies what submit() gives it. Each accepted job ends in one completion.
/// Thread safety: submit, poll, close, abort from one thread; the copy threads are its own.
class CopyPool {
 public:
  struct Job {
    std::shared_ptr<Segment> segment;  ///< held until the bytes are copied
    std::span<const std::byte> source;
    Bucket bucket;
  };

  /// @param event an eventfd in non-blocking mode
  CopyPool(const LaneOptions& options, base::UniqueFd event);
  ~CopyPool();
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;

  Status submit(Job job);
  std::size_t poll(std::span<Completion> out);
  int event_fd() const noexcept { return event_.get(); }
  Status close(Deadline deadline);
  void abort() noexcept;

 private:
  Status start_threads();
  void run(std::size_t index);
  Status copy(const Job& job) noexcept;
  void complete(Completion completion);  ///< needs mutex_

  const LaneOptions options_;
  const base::UniqueFd event_;  ///< readable exactly while done_ is not empty

  std::mutex mutex_;
  std::condition_variable work_;  ///< a job came, or stopping_
  std::condition_variable idle_;  ///< nothing waits and nothing is being copied
  std::deque<Job> waiting_;
  std::deque<Completion> done_;
  std::size_t copying_ = 0;
  bool closed_ = false;
  bool stopping_ = false;
  std::atomic<bool> aborted_{false};
  std::vector<std::thread> threads_;
};

}  // namespace weightcast::transport
