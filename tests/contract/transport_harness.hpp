// What the suites of all transports share. A transport is tested by giving them a harness for it:
// a source of kSlots slots of kSlotBytes bytes and a way to reach it, with
//   Transport& transport();
//   std::optional<SegmentAddress> publish(slot, number, bytes);  // writes and seals the pattern of
//                          // `number`; empty while somebody holds the slot
//   bool can_overwrite(slot);  // whether the source could take the slot back now
//   void restart();            // the source ends and another life of it begins, with empty slots
//   static constexpr bool kAsksAPeer;  // acquire() answers at once, and what the source says of
//   it,
//                          // holding and letting go included, comes later
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "support/shm_fixture.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

inline constexpr std::uint32_t kSlots = 3;
inline constexpr std::uint64_t kSlotBytes = 700 * 1024 + 13;

inline Deadline within(std::chrono::seconds time) { return Clock::now() + time; }
inline Deadline at_once() { return Clock::now() - std::chrono::seconds(1); }

/// Holds threads back until it is opened; opens by itself after a minute, so that nothing hangs.
class Gate {
 public:
  /// Opens when it goes, so that a test that fails half way leaves no thread waiting.
  ~Gate() { open(); }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait_until(lock, within(std::chrono::seconds(60)), [&] { return open_; });
  }
  bool wait_for_arrivals(int count) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, within(std::chrono::seconds(60)),
                               [&] { return arrived_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int arrived_ = 0;
};

inline bool readable_now(int fd) {
  pollfd in{fd, POLLIN, 0};
  return ::poll(&in, 1, 0) == 1;
}

/// Takes `count` completions, waiting for them on the event descriptor; fewer after a minute.
inline std::vector<Completion> take(Lane& lane, std::size_t count) {
  std::vector<Completion> all;
  const auto deadline = within(std::chrono::seconds(60));
  while (all.size() < count && Clock::now() < deadline) {
    pollfd in{lane.event_fd(), POLLIN, 0};
    ::poll(&in, 1, 1000);
    std::array<Completion, 5> some;
    const auto got = lane.poll(some);
    for (std::size_t i = 0; i < got; ++i) all.push_back(std::move(some[i]));
  }
  EXPECT_EQ(all.size(), count);
  return all;
}

/// Asks again and again. @return false after a minute
template <class Done>
bool eventually(Done&& done) {
  const auto deadline = within(std::chrono::seconds(60));
  while (!done()) {
    if (Clock::now() >= deadline) return false;
    ::poll(nullptr, 0, 1);  // lets the other threads have the processor
  }
  return true;
}

template <class Harness>
class TransportTest : public ::testing::Test {
 protected:
  Harness harness;

  /// Whether the source can (not) take the slot back: now, or where a peer has to hear of it first,
  /// soon.
  bool is_free(std::uint32_t slot) {
    return settles([&] { return harness.can_overwrite(slot); });
  }
  bool is_held(std::uint32_t slot) {
    return settles([&] { return !harness.can_overwrite(slot); });
  }

  template <class Condition>
  static bool settles(Condition&& condition) {
    if constexpr (Harness::kAsksAPeer) return eventually(condition);
    return condition();
  }

  std::unique_ptr<Lane> lane(LaneOptions options = {}) {
    auto opened = harness.transport().open_lane(options);
    EXPECT_TRUE(opened.is_ok()) << opened.status().to_string();
    return opened.is_ok() ? std::move(*opened) : nullptr;
  }

  SegmentAddress publish(std::uint32_t slot, std::uint64_t number,
                         std::uint64_t bytes = kSlotBytes) {
    std::optional<SegmentAddress> address;
    EXPECT_TRUE(settles([&] {
      return (address = harness.publish(slot, number, bytes)).has_value();
    })) << "slot "
        << slot << " is held";
    return address.value_or(SegmentAddress{});
  }
  static std::shared_ptr<Segment> acquire(Lane& from, const SegmentAddress& address) {
    auto segment = from.acquire(address);
    EXPECT_TRUE(segment.is_ok()) << segment.status().to_string();
    return segment.is_ok() ? *segment : nullptr;
  }

  /// What the source says to an address: by acquire() itself, or where a peer has to be asked, by
  /// the first completion.
  static Code acquire_code(Lane& from, const SegmentAddress& address) {
    const auto segment = from.acquire(address);
    if (!segment.is_ok()) return segment.status().code();
    if (!Harness::kAsksAPeer) return Code::kOk;
    std::byte byte{};
    const Status submitted = from.submit(*segment, {77, 0, std::span(&byte, 1), {}});
    if (!submitted) return submitted.code();
    const auto completions = take(from, 1);
    return completions.empty() ? Code::kDeadline : completions.front().status.code();
  }
};

}  // namespace weightcast::transport
