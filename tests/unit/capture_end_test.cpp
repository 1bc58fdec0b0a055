// How captures end: waited for, cancelled, voided, destroyed, and what they leave behind.
#include <dirent.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sched.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <future>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "publisher/capture.hpp"
#include "unit/capture_fixture.hpp"

namespace weightcast::publisher {
namespace {

using namespace test;

TEST(CaptureEnd, UnchangedIsAskedOnceAfterTheLastCopyOnAWorker) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  std::atomic<int> asked{0};
  std::thread::id asked_on;
  CaptureRequest request = request_for(policy, layout, slot);
  request.list.unchanged = [&] {
    ++asked;
    asked_on = std::this_thread::get_id();
    for (const auto& item : layout.items) {
      const auto bytes = policy.canonical(item.tensor);
      EXPECT_TRUE(bytes.empty() || std::memcmp(slot.payload.data() + item.offset, bytes.data(),
                                               bytes.size()) == 0);
    }
    return true;
  };
  CapturePool pool(small_chunks());
  Outcome outcome;

  ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());

  EXPECT_TRUE(outcome.get().status.is_ok());
  EXPECT_EQ(asked.load(), 1);
  EXPECT_NE(asked_on, std::this_thread::get_id());
}

TEST(CaptureEnd, ATensorWrittenToMeanwhileIsStale) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(small_chunks());
  for (bool throws : {false, true}) {
    CaptureRequest request = request_for(policy, layout, slot);
    request.list.unchanged = [throws]() -> bool {
      if (throws) throw std::runtime_error("gone");
      return false;
    };
    Outcome outcome;

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());

    EXPECT_EQ(outcome.get().status.code(), Code::kStale);
    ASSERT_TRUE(pool.wait(soon()));
  }
}

TEST(CaptureEnd, WaitEndsAtItsDeadlineAndStartIsRefusedMeanwhile) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  Gate gate;
  CaptureRequest request = request_for(policy, layout, slot);
  request.list.unchanged = [&gate] { return gate.pass(), true; };
  CapturePool pool(small_chunks());
  Outcome outcome, refused;

  ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());
  ASSERT_TRUE(gate.somebody_waits());
  const Status second = pool.start(request_for(policy, layout, slot), refused.callback());
  EXPECT_EQ(second.code(), Code::kInvalid);
  EXPECT_FALSE(pool.wait(Clock::now()));
  EXPECT_FALSE(pool.wait(Clock::now() - std::chrono::hours(1)));
  EXPECT_EQ(outcome.calls(), 0);
  gate.open();

  EXPECT_TRUE(pool.wait(soon()));
  EXPECT_EQ(outcome.calls(), 1) << "wait() returns only after done()";
  EXPECT_TRUE(outcome.get().status.is_ok());
  EXPECT_EQ(refused.calls(), 0);
}

TEST(CaptureEnd, TensorsThatTheTrainerFreesMeanwhileLiveUntilTheLastCopy) {
  Policy policy = mixed_policy(4);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  std::vector<std::vector<std::byte>> expected;
  for (const auto& item : layout.items) expected.push_back(policy.canonical(item.tensor));
  std::promise<std::thread::id> freed;
  auto freed_on = freed.get_future();
  CaptureRequest request = request_for(policy, layout, slot);
  request.list.keep_alive = std::shared_ptr<const void>(
      policy.storages().get(),
      [storages = policy.storages(), &freed](const void*) mutable {
        storages.reset();
        freed.set_value(std::this_thread::get_id());
      });
  policy.release();
  CapturePool pool(small_chunks());
  Outcome outcome;

  ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());

  ASSERT_TRUE(outcome.get().status.is_ok());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(expected[i].empty() ||
                std::memcmp(slot.payload.data() + layout.items[i].offset, expected[i].data(),
                            expected[i].size()) == 0);
  }
  ASSERT_EQ(freed_on.wait_until(soon()), std::future_status::ready);
  EXPECT_NE(freed_on.get(), std::this_thread::get_id());
}

TEST(CaptureEnd, CancelDropsWhatHasNotBegun) {
  // Tens of thousands of slow chunks; the cancel arrives while they run, except by rare chance.
  Policy policy(6);
  policy.add_transposed("w", DType::kF32, 1024, 2048);
  policy.publish_floats_as(DType::kBF16);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CaptureOptions options = small_chunks();
  options.chunk_bytes = 64;
  CapturePool pool(options);
  int cancelled = 0;
  for (int attempt = 0; attempt < 20 && cancelled == 0; ++attempt) {
    std::atomic<int> asked{0};
    CaptureRequest request = request_for(policy, layout, slot);
    request.list.unchanged = [&] { return ++asked, true; };
    Outcome outcome;

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());
    pool.cancel();
    pool.cancel();

    ASSERT_TRUE(pool.wait(soon()));
    EXPECT_EQ(outcome.calls(), 1);
    EXPECT_EQ(asked.load(), 1);
    if (outcome.get().status.code() == Code::kCancelled) ++cancelled;
  }
  EXPECT_GT(cancelled, 0);
}

TEST(CaptureEnd, CancelRacingWithTheEndCallsDoneOnce) {
  std::mt19937_64 random = seeded("CancelRacingWithTheEndCallsDoneOnce");
  Policy policy(8);
  policy.add("w", DType::kF32, {20'000});
  const auto layout = only_share(policy);
  CapturePool pool(small_chunks());
  for (int round = 0; round < 150; ++round) {
    Slot slot(layout.payload_bytes);
    Outcome outcome;
    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());
    for (std::uint64_t i = random() % 64; i > 0; --i) sched_yield();
    pool.cancel();

    ASSERT_TRUE(pool.wait(soon()));
    ASSERT_EQ(outcome.calls(), 1);
    const CaptureResult result = outcome.get();
    if (result.status.is_ok()) {
      expect_sealed(policy, layout, slot, result);
    } else {
      ASSERT_EQ(result.status.code(), Code::kCancelled);
    }
  }
}

TEST(CaptureEnd, CancelWhenIdleDoesNotTouchTheNextOne) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(small_chunks());
  Outcome outcome;

  pool.cancel();
  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(CaptureEnd, DestructionEndsARunningCapture) {
  Policy policy(8);
  policy.add("w", DType::kF32, {200'000});
  const auto layout = only_share(policy);
  for (int round = 0; round < 50; ++round) {
    Slot slot(layout.payload_bytes);
    Outcome outcome;
    {
      CapturePool pool(small_chunks());
      ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());
    }
    ASSERT_EQ(outcome.calls(), 1);
  }
}

TEST(CaptureEnd, ManyCapturesFromOnePoolDoNotGrowIt) {
  std::mt19937_64 random = seeded("ManyCapturesFromOnePoolDoNotGrowIt");
  CapturePool pool(small_chunks());
  Policy policy = mixed_policy(random());
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  const auto capture = [&] {
    Outcome outcome;
    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());
    ASSERT_TRUE(pool.wait(soon()));
    ASSERT_TRUE(outcome.get().status.is_ok());
  };
  for (int i = 0; i < 20; ++i) capture();
  const auto before = mallinfo2().uordblks;

  for (int i = 0; i < 300; ++i) capture();

  // The last request may still be on its way to be freed; 300 leaks would be far more.
  EXPECT_LT(mallinfo2().uordblks, before + 128 * 1024);
}

TEST(CaptureEnd, ACallbackThatThrowsLeavesThePoolUsable) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(small_chunks());

  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), [](CaptureResult) {
                    throw std::runtime_error("from done");
                  }).is_ok());
  ASSERT_TRUE(pool.wait(soon()));
  Outcome outcome;
  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  expect_sealed(policy, layout, slot, outcome.get());
}

// The scheduling policies of this process's threads whose names begin with `prefix`.
std::vector<int> policies_of(const std::string& prefix) {
  std::vector<int> policies;
  DIR* tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return policies;
  while (const dirent* entry = readdir(tasks)) {
    std::string name;
    std::ifstream(std::string("/proc/self/task/") + entry->d_name + "/comm") >> name;
    if (name.compare(0, prefix.size(), prefix) == 0) {
      policies.push_back(sched_getscheduler(std::atoi(entry->d_name)));
    }
  }
  closedir(tasks);
  return policies;
}

TEST(CaptureEnd, WorkersAreNamedBatchThreadsAndLeaveWithThePool) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  {
    CapturePool pool(small_chunks(1));
    Outcome outcome;
    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());
    ASSERT_TRUE(outcome.get().status.is_ok());  // so the worker has named itself

    EXPECT_EQ(policies_of("wc-capture-"), std::vector<int>{SCHED_BATCH});
  }
  // A joined thread stays listed until the kernel has buried it.
  const Deadline deadline = soon();
  while (!policies_of("wc-capture-").empty() && Clock::now() < deadline) sched_yield();
  EXPECT_TRUE(policies_of("wc-capture-").empty());
}

}  // namespace
}  // namespace weightcast::publisher
