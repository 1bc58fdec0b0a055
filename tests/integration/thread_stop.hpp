// Holds a thread at a failpoint, as SIGSTOP does a process.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "base/failpoint.hpp"

namespace weightcast::test {

/// Of the threads that pass the failpoint while it lives, the nth that comes there is held until it is
/// let go; the others go on. One at a time. Thread safety: any thread.
class ThreadStop {
 public:
  explicit ThreadStop(const char* where, std::size_t nth_thread = 1) {
    {
      // Whoever met the one before may still be on its way out.
      const std::lock_guard lock(all().mutex);
      all().where = where;
      all().nth = nth_thread;
      all().threads.clear();
      all().state = State::kArmed;
    }
    base::failpoint_handler().store(&passed);
  }
  ~ThreadStop() {
    base::failpoint_handler().store(nullptr);
    let_go();
  }
  ThreadStop(const ThreadStop&) = delete;
  ThreadStop& operator=(const ThreadStop&) = delete;

  static bool holds() {
    const std::lock_guard lock(all().mutex);
    return all().state == State::kHolding;
  }
  static void let_go() {
    const std::lock_guard lock(all().mutex);
    all().state = State::kOff;
    all().changed.notify_all();
  }

 private:
  enum class State { kOff, kArmed, kHolding };
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::string where;
    std::size_t nth = 1;
    std::set<std::thread::id> threads;
    State state = State::kOff;
  };
  static Shared& all() {
    static Shared one;
    return one;
  }
  static void passed(const char* where, unsigned long long) {
    std::unique_lock lock(all().mutex);
    if (all().state != State::kArmed || all().where != where) return;
    all().threads.insert(std::this_thread::get_id());
    if (all().threads.size() < all().nth) return;
    all().state = State::kHolding;
    all().changed.wait(lock, [] { return all().state != State::kHolding; });
  }
};

}  // namespace weightcast::test
