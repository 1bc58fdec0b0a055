// The fake clock: events in the order of their time, and of their making where that is equal.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include <weightcast/types.hpp>

namespace weightcast::simulation {

class EventQueue {
 public:
  Clock::time_point now() const noexcept { return now_; }
  std::uint64_t executed() const noexcept { return executed_; }

  void at(Clock::time_point when, std::function<void()> what) {
    events_.push_back({std::max(when, now_), made_++, std::move(what)});
    std::push_heap(events_.begin(), events_.end(), later);
  }
  void after(Duration delay, std::function<void()> what) { at(now_ + delay, std::move(what)); }

  /// Runs the next event. @return false when there is none
  bool step() {
    if (events_.empty()) return false;
    std::pop_heap(events_.begin(), events_.end(), later);
    const Event event = std::move(events_.back());
    events_.pop_back();
    now_ = event.when;
    ++executed_;
    event.what();
    return true;
  }

 private:
  struct Event {
    Clock::time_point when;
    std::uint64_t number = 0;
    std::function<void()> what;
  };
  static bool later(const Event& x, const Event& y) {
    return std::pair(x.when, x.number) > std::pair(y.when, y.number);
  }

  Clock::time_point now_ = Clock::time_point{} + std::chrono::seconds(1000);
  std::uint64_t made_ = 0;
  std::uint64_t executed_ = 0;
  std::vector<Event> events_;
};

}  // namespace weightcast::simulation
