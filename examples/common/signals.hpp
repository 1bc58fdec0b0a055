#pragma once

#include <signal.h>

namespace rl_loop {

/// Holds SIGINT and SIGTERM back for this thread and those it starts, so that they end a loop that
/// asks stop_requested() and never a call in the middle. To be called before any thread starts.
inline void hold_stop_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

/// Whether SIGINT or SIGTERM has come since hold_stop_signals().
inline bool stop_requested() {
  sigset_t pending;
  sigpending(&pending);
  return sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1;
}

}  // namespace rl_loop
