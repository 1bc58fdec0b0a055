// A process of the world: it lives, stands still under SIGSTOP, or is gone at once by SIGKILL.
#pragma once

#include <coroutine>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "protocol/coordinator.hpp"
#include "simulation/routine.hpp"
#include "simulation/truth.hpp"

namespace weightcast::simulation {

class World;

class Process {
 public:
  Process(World& world, Pid pid, std::string name);
  virtual ~Process() = default;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  Pid pid() const noexcept { return pid_; }
  const std::string& name() const noexcept { return name_; }
  bool stopped() const noexcept { return stopped_; }
  /// Counts SIGSTOPs, so that who measures a wait can tell that it was stopped meanwhile.
  std::uint64_t stops() const noexcept { return stops_; }

  /// A message arrives over connection `peer`. A stopped process takes it in later.
  void deliver(protocol::Peer peer, std::shared_ptr<const protocol::Message> message);
  void stop();
  void cont();
  /// Says good-bye; the process ends after it.
  virtual void leave() = 0;

  /// Runs `what` as this process, then lets it go on with whatever that made possible.
  void run(const std::function<void()>& what);

 protected:
  virtual void on_message(protocol::Peer peer, const protocol::Message& message) = 0;
  /// Ticks the machines and carries their messages and actions.
  virtual void turn() = 0;
  virtual Clock::time_point next_wakeup() const = 0;

  Clock::time_point now() const;
  /// Runs `what` after `delay`, or once the process is continued, or never if it dies.
  void post(Duration delay, std::function<void()> what);
  void spawn(Routine routine);
  /// What the destructor of a derived class begins with: its routines use what it holds.
  void end_routines() noexcept {
    waiters_.clear();
    routines_.clear();
  }

  struct Pause {
    Process& process;
    Duration delay;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> handle) {
      process.post(delay, [handle] { handle.resume(); });
    }
    void await_resume() const noexcept {}
  };
  Pause pause(Duration delay) { return {*this, delay}; }

  /// Keeps the condition by its own type: gcc 11 mishandles some temporaries with destructors in
  /// co_await expressions.
  template <class Condition>
  struct Until {
    Process& process;
    Condition condition;
    Clock::time_point deadline;
    bool await_ready() const { return condition(); }
    void await_suspend(std::coroutine_handle<> handle) {
      process.waiters_.push_back({handle, condition, deadline});
      if (deadline != Clock::time_point::max()) process.wake_at(deadline);
    }
    /// Whether the condition holds (else the deadline passed).
    bool await_resume() const { return condition(); }
  };
  template <class Condition>
  Until<Condition> until(Condition condition, Clock::time_point deadline) {
    return {*this, condition, deadline};
  }

  World& world_;

 private:
  struct Waiter {
    std::coroutine_handle<> handle;
    std::function<bool()> condition;
    Clock::time_point deadline;
  };
  struct Delivery {
    protocol::Peer peer;
    std::shared_ptr<const protocol::Message> message;
  };
  void wake_at(Clock::time_point when);
  void resume_waiters();
  void arm_timer();

  Pid pid_;
  std::string name_;
  bool stopped_ = false;
  bool running_ = false;
  std::uint64_t stops_ = 0;
  Clock::time_point timer_at_ = Clock::time_point::max();
  std::deque<Delivery> inbox_;
  std::vector<std::function<void()>> frozen_;
  std::vector<Waiter> waiters_;
  std::vector<std::unique_ptr<Routine>> routines_;
};

}  // namespace weightcast::simulation
