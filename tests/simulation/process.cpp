#include "simulation/process.hpp"

#include <algorithm>

#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
/// What a socket holds for a process that does not read; beyond it messages are lost.
constexpr std::size_t kInboxBound = 256;
/// The loop polls in whole milliseconds.
constexpr Duration kTimerGrain = std::chrono::milliseconds(1);
}  // namespace

Process::Process(World& world, Pid pid, std::string name)
    : world_(world), pid_(pid), name_(std::move(name)) {}

Clock::time_point Process::now() const { return world_.events.now(); }

void Process::post(Duration delay, std::function<void()> what) {
  world_.events.after(delay, [&world = world_, pid = pid_, what = std::move(what)]() mutable {
    Process* process = world.find(pid);
    if (process == nullptr) return;
    if (process->stopped_) {
      process->frozen_.push_back(std::move(what));
    } else {
      process->run(what);
    }
  });
}

void Process::wake_at(Clock::time_point when) {
  post(std::max(Duration(0), Duration(when - now())), [] {});
}

void Process::spawn(Routine routine) {
  std::erase_if(routines_, [](const auto& it) { return it->ended(); });
  routines_.push_back(std::make_unique<Routine>(std::move(routine)));
  Routine* raw = routines_.back().get();
  post(Duration(0), [raw] { raw->start(); });
}

void Process::run(const std::function<void()>& what) {
  what();
  if (running_) return;  // the outer call goes on
  running_ = true;
  turn();
  resume_waiters();
  running_ = false;
  arm_timer();
}

void Process::resume_waiters() {
  for (bool again = true; again;) {
    again = false;
    for (std::size_t i = 0; i < waiters_.size(); ++i) {
      if (now() < waiters_[i].deadline && !waiters_[i].condition()) continue;
      const auto handle = waiters_[i].handle;
      waiters_.erase(waiters_.begin() + static_cast<std::ptrdiff_t>(i));
      handle.resume();
      turn();
      again = true;
      break;
    }
  }
}

void Process::arm_timer() {
  const Clock::time_point at = std::max(next_wakeup(), now() + kTimerGrain);
  if (timer_at_ > now() && timer_at_ <= at) return;  // early enough; it will look again
  timer_at_ = at;
  wake_at(at);
}

void Process::deliver(protocol::Peer peer, std::shared_ptr<const protocol::Message> message) {
  if (stopped_) {
    if (inbox_.size() < kInboxBound) inbox_.push_back({peer, std::move(message)});
    return;
  }
  run([&] { on_message(peer, *message); });
}

void Process::stop() {
  if (stopped_) return;
  stopped_ = true;
  ++stops_;
}

void Process::cont() {
  if (!stopped_) return;
  stopped_ = false;
  // The loop reads its sockets before it looks at the clock.
  for (const Delivery& it : std::exchange(inbox_, {})) on_message(it.peer, *it.message);
  Duration delay{0};
  for (auto& what : std::exchange(frozen_, {})) {
    post(delay, std::move(what));
    delay += std::chrono::microseconds(1);
  }
  run([] {});
}

}  // namespace weightcast::simulation
