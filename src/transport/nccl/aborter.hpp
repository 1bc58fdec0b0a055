// Ends communicators that failed, each on a thread of its own: that blocks for a second or two, and
// where a driver is ill, for ever.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>

#include <weightcast/types.hpp>

#include "driver/nccl.hpp"

namespace weightcast::transport {

/// Says whether an abort is over; until then kernels of the communicator may touch its buffers.
using AbortTicket = std::shared_ptr<const std::atomic<bool>>;

/// Thread safety: any thread.
class Aborter {
 public:
  explicit Aborter(std::shared_ptr<driver::Nccl> nccl);
  /// Does not wait: aborts that are under way go on.
  ~Aborter() = default;

  /// Takes the communicator over. Does not wait, but where no thread can be had.
  AbortTicket give(driver::NcclComm comm);

  /// Whether all aborts were over by then.
  bool wait(Deadline deadline);
  std::size_t pending() const;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::size_t pending = 0;
  };
  const std::shared_ptr<driver::Nccl> nccl_;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace weightcast::transport
