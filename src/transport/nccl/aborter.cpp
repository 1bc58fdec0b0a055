#include "transport/nccl/aborter.hpp"

#include <pthread.h>

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/log.hpp"
#include "base/signal_mask.hpp"

namespace weightcast::transport {

Aborter::Aborter(std::shared_ptr<driver::Nccl> nccl) : nccl_(std::move(nccl)) {}

AbortTicket Aborter::give(driver::NcclComm comm) {
  auto over = std::make_shared<std::atomic<bool>>(false);
  {
    const std::lock_guard lock(state_->mutex);
    ++state_->pending;
  }
  // The thread may outlive this object: it holds all that it needs.
  const auto end = [nccl = nccl_, state = state_, over, comm] {
    if (Status s = nccl->abort(comm); !s) {
      // It is gone all the same: NCCL takes no second one.
      base::log(LogLevel::kWarn, "nccl_abort_failed", {{"why", s.message()}});
    }
    *over = true;
    const std::lock_guard lock(state->mutex);
    --state->pending;
    state->changed.notify_all();
  };
  const base::ScopedSignalMask mask;
  try {
    std::thread thread([end] {
      ::pthread_setname_np(::pthread_self(), "wc-nccl-abort");
      end();
    });
    thread.detach();
  } catch (const std::system_error&) {
    end();
  }
  return over;
}

bool Aborter::wait(Deadline deadline) {
  std::unique_lock lock(state_->mutex);
  return state_->changed.wait_until(lock, deadline, [&] { return state_->pending == 0; });
}

std::size_t Aborter::pending() const {
  const std::lock_guard lock(state_->mutex);
  return state_->pending;
}

}  // namespace weightcast::transport
