// Threads that put the bytes of buckets where they belong.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "transport/flight.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Places the buckets that put() gives it, and ends each in a Flight.
/// Thread safety: start, abort and the destructor from one thread; put from any.
class CopyPool {
 public:
  struct Job {
    std::shared_ptr<void> held;  ///< keeps the bytes; let go before the bucket's end is seen
    std::span<const std::byte> payload;  ///< that offset and the bucket's strips count in
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;  ///< of the bucket
    Bucket bucket;
    /// Called on a copy thread before the first byte is placed. False: whoever set it has taken the
    /// bucket back, and the job ends without a completion. Empty: true.
    std::function<bool(Job&)> admit{};
    std::uint64_t version = 0;  ///< for the trace
    /// Brings the bytes in the place of copying them from `payload`, which is no memory of the host
    /// then. Called on a copy thread; ends early once the flag is true. Must not throw.
    std::function<Status(const Job&, const std::atomic<bool>& aborted)> bring{};
  };

  /// @param flight outlives the pool
  CopyPool(std::uint32_t threads, Flight& flight) : wanted_(threads), flight_(flight) {}
  ~CopyPool();
  CopyPool(const CopyPool&) = delete;
  CopyPool& operator=(const CopyPool&) = delete;

  /// Starts the threads where they do not run yet. @return kExhausted where there can be none
  Status start();
  /// Takes over a job of a bucket that has begun in the flight.
  void put(Job job);
  /// Ends as cancelled what waits, and between two pieces what is being placed; what comes later
  /// ends at once.
  void abort() noexcept;

 private:
  void run(std::size_t index);
  Status copy(const Job& job) noexcept;

  const std::uint32_t wanted_;
  Flight& flight_;
  std::mutex mutex_;
  std::condition_variable work_;  ///< a job came, or stopping_
  std::deque<Job> waiting_;
  bool stopping_ = false;
  std::atomic<bool> aborted_{false};
  std::vector<std::thread> threads_;
};

}  // namespace weightcast::transport
