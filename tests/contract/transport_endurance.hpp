// What every transport must keep up over many versions and with several threads:
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportEndurance, ShmHarness);
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "contract/transport_harness.hpp"

namespace weightcast::transport {

inline std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// Mappings of shared-memory objects; others come and go with the allocator.
inline std::size_t shared_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/dev/shm/") != std::string::npos) ++count;
  }
  return count;
}

template <class Harness>
class TransportEndurance : public TransportTest<Harness> {};

TYPED_TEST_SUITE_P(TransportEndurance);

TYPED_TEST_P(TransportEndurance, ManyVersionsDoNotGrowAnything) {
  const auto lane = this->lane();
  std::vector<std::byte> space(1000);
  std::uint64_t number = 0;
  const auto versions = [&](int count) {
    for (int i = 0; i < count; ++i) {
      ++number;
      const auto segment = this->acquire(*lane, this->publish(number % kSlots, number, 1000));
      ASSERT_TRUE(segment);
      ASSERT_TRUE(lane->submit(segment, {number, 0, space, {}}).is_ok());
      take(*lane, 1);
      ASSERT_EQ(test::first_difference(space, number), space.size());
    }
  };
  versions(2 * kSlots);
  const auto descriptors = open_descriptors();
  const auto mappings = shared_mappings();

  versions(300);

  EXPECT_TRUE(this->settles([&] { return open_descriptors() == descriptors; }))
      << open_descriptors() << " descriptors, " << descriptors << " before";
  EXPECT_TRUE(this->settles([&] { return shared_mappings() == mappings; }))
      << shared_mappings() << " mappings, " << mappings << " before";
}

TYPED_TEST_P(TransportEndurance, ManyLivesOfASourceDoNotGrowAnything) {
  const auto lane = this->lane();
  std::size_t descriptors = 0;
  std::size_t mappings = 0;
  for (std::uint64_t life = 1; life <= 30; ++life) {
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      const auto segment = this->acquire(*lane, this->publish(slot, life, 1000));
      ASSERT_TRUE(segment);
      ASSERT_TRUE(this->is_held(slot));
    }
    if (life == 2) {
      descriptors = open_descriptors();
      mappings = shared_mappings();
    }
    if (life < 30) this->harness.restart();
  }
  EXPECT_TRUE(this->settles([&] { return open_descriptors() == descriptors; }))
      << open_descriptors() << " descriptors, " << descriptors << " before";
  EXPECT_TRUE(this->settles([&] { return shared_mappings() == mappings; }))
      << shared_mappings() << " mappings, " << mappings << " before";
}

TYPED_TEST_P(TransportEndurance, LettingGoElsewhereNeverEndsANewHold) {
  // Engines let go on threads of their own while the lane's thread takes hold again.
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::shared_ptr<Segment>> handed_over;
  bool over = false;
  int let_go = 0;
  const auto lane = this->lane();
  const SegmentAddress address = this->publish(0, 5, 1000);
  std::thread engine([&] {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return over || !handed_over.empty(); });
      if (handed_over.empty()) return;
      auto segment = std::move(handed_over.front());
      handed_over.pop_front();
      lock.unlock();
      segment.reset();
      lock.lock();
      ++let_go;
      changed.notify_all();
    }
  });
  int lost = 0;
  for (int i = 0; i < 2000; ++i) {
    if (i % 8 == 0) {  // at times nothing is held, so that a hold begins while another's end is told
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return let_go == i; });
    }
    auto segment = lane->acquire(address);
    if (!segment.is_ok() || !this->is_held(0)) ++lost;
    const std::lock_guard lock(mutex);
    if (segment.is_ok()) {
      handed_over.push_back(std::move(*segment));
    } else {
      ++let_go;
    }
    segment = Status(Code::kCancelled, "handed over");
    changed.notify_all();
  }
  {
    const std::lock_guard lock(mutex);
    over = true;
    changed.notify_all();
  }
  engine.join();

  EXPECT_EQ(lost, 0);
  EXPECT_TRUE(this->is_free(0));
}

TYPED_TEST_P(TransportEndurance, NoReaderEverSeesAMix) {
  // The source overwrites whatever nobody holds, as fast as it can; two receivers follow it.
  constexpr std::uint64_t kVersions = 300;
  constexpr std::uint64_t kPayload = 40000;
  std::mutex mutex;
  SegmentAddress newest = this->publish(0, 1, kPayload);
  std::atomic<bool> over{false};
  std::atomic<int> mixed{0};
  std::array<std::atomic<int>, 2> whole{};
  using Harness = TypeParam;
  const auto follow = [&](std::size_t who) {
    auto lane = this->lane();
    std::vector<std::byte> space(kPayload);
    do {
      SegmentAddress address;
      {
        const std::lock_guard lock(mutex);
        address = newest;
      }
      const auto segment = lane->acquire(address);
      if (!segment.is_ok()) {
        if (segment.status().code() != Code::kStale) ++mixed;
        continue;
      }
      if (!lane->submit(*segment, {1, 0, space, {}}).is_ok()) ++mixed;
      const auto completions = take(*lane, 1);
      if (Harness::kAsksAPeer && completions.size() == 1 &&
          completions.front().status.code() == Code::kStale) {
        continue;
      }
      const auto seen = (*segment)->view();
      const bool good = test::first_difference(space, address.version.number) == kPayload &&
                        test::first_difference(seen, address.version.number) == seen.size();
      ++(good ? whole[who] : mixed);
    } while (!over);
  };
  std::thread one(follow, 0);
  std::thread other(follow, 1);
  std::uint64_t number = 1;
  const auto deadline = within(std::chrono::seconds(60));
  while (Clock::now() < deadline && (number < kVersions || whole[0] < 20 || whole[1] < 20)) {
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      if (const auto address = this->harness.publish(slot, number + 1, kPayload)) {
        ++number;
        const std::lock_guard lock(mutex);
        newest = *address;
      }
    }
  }
  over = true;
  one.join();
  other.join();

  EXPECT_EQ(mixed, 0);
  EXPECT_GE(number, kVersions);
  EXPECT_GE(whole[0], 20);
  EXPECT_GE(whole[1], 20);
}

REGISTER_TYPED_TEST_SUITE_P(TransportEndurance, ManyVersionsDoNotGrowAnything,
                            ManyLivesOfASourceDoNotGrowAnything,
                            LettingGoElsewhereNeverEndsANewHold, NoReaderEverSeesAMix);

}  // namespace weightcast::transport
