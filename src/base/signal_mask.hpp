// Threads of ours take no signals: a handler of the user's program must not run on them, and
// system calls on them must not be interrupted.
#pragma once

#include <csignal>

namespace weightcast::base {

/// Blocks all signals of the calling thread while it lives. A thread started meanwhile inherits the
/// blocked mask for good, which is what it is for.
class ScopedSignalMask {
 public:
  ScopedSignalMask() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~ScopedSignalMask() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  ScopedSignalMask(const ScopedSignalMask&) = delete;
  ScopedSignalMask& operator=(const ScopedSignalMask&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace weightcast::base
