#include "publisher/capture.hpp"

#include <dirent.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <future>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "codec/convert.hpp"
#include "codec/digest.hpp"
#include "plan/shares.hpp"

namespace weightcast::publisher {
namespace {

Deadline soon() { return Clock::now() + std::chrono::seconds(60); }

std::mt19937_64 seeded(const char* test) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("%s seed=%llu\n", test, static_cast<unsigned long long>(seed));
  return std::mt19937_64(seed);
}

// Tensors that own their storage, and a list that looks at them.
class Policy {
 public:
  explicit Policy(std::uint64_t seed) : random_(seed) {}

  TensorView& add(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    TensorView view;
    view.info.name = name;
    view.info.dtype = dtype;
    view.info.shape = std::move(shape);
    auto storage = std::make_shared<std::vector<std::byte>>(view.info.bytes());
    for (std::byte& b : *storage) b = static_cast<std::byte>(random_());
    view.data = storage->data();
    storages_->push_back(std::move(storage));
    list_.tensors.push_back(view);
    published_.push_back(view.info);
    return list_.tensors.back();
  }

  // A matrix that lies transposed in memory.
  void add_transposed(const std::string& name, DType dtype, std::int64_t rows,
                      std::int64_t columns) {
    add(name, dtype, {rows, columns}).strides = {1, rows};
  }

  void add_buffer(const std::string& name, DType dtype, std::vector<std::int64_t> shape) {
    add(name, dtype, std::move(shape)).info.buffer = true;
    published_.back().buffer = true;
  }

  void publish_floats_as(DType dtype) {
    for (TensorInfo& info : published_) {
      if (dtype_is_floating(info.dtype)) info.dtype = dtype;
    }
  }

  TensorList& list() { return list_; }
  const std::vector<TensorInfo>& published() const { return published_; }
  std::shared_ptr<const void> storages() const { return storages_; }

  /// Forgets its own hold on the tensors.
  void release() { storages_.reset(); }

  std::vector<std::byte> canonical(std::uint32_t tensor) const {
    std::vector<std::byte> bytes(published_[tensor].bytes());
    const TensorView& view = list_.tensors[tensor];
    const auto count = static_cast<std::uint64_t>(view.info.elements());
    EXPECT_TRUE(codec::gather(bytes.data(), published_[tensor].dtype, view, 0, count).is_ok());
    return bytes;
  }

  base::Digest digest(std::uint32_t tensor) const {
    const auto bytes = canonical(tensor);
    return codec::digest_reference(bytes.data(), bytes.size(), 0);
  }

 private:
  std::mt19937_64 random_;
  std::shared_ptr<std::vector<std::shared_ptr<std::vector<std::byte>>>> storages_ =
      std::make_shared<std::vector<std::shared_ptr<std::vector<std::byte>>>>();
  TensorList list_;
  std::vector<TensorInfo> published_;
};

// The call of `done`: how often, with what, from where.
class Outcome {
 public:
  std::function<void(CaptureResult)> callback() {
    return [this](CaptureResult result) {
      const std::lock_guard lock(mutex_);
      ++calls_;
      thread_ = std::this_thread::get_id();
      result_ = std::move(result);
      called_.notify_all();
    };
  }
  CaptureResult get() {
    std::unique_lock lock(mutex_);
    if (!called_.wait_until(lock, soon(), [&] { return calls_ > 0; })) {
      ADD_FAILURE() << "done was not called";
      return {};
    }
    return result_;
  }
  int calls() {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  std::thread::id thread() {
    const std::lock_guard lock(mutex_);
    return thread_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable called_;
  int calls_ = 0;
  std::thread::id thread_;
  CaptureResult result_;
};

// Holds back whoever passes until it is opened; opens itself at the end of the test.
class Gate {
 public:
  ~Gate() { open(); }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    waiting_ = true;
    changed_.notify_all();
    changed_.wait_until(lock, soon(), [&] { return open_; });
  }
  bool somebody_waits() {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, soon(), [&] { return waiting_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  bool waiting_ = false;
};

constexpr std::byte kUntouched{0xA5};

struct Slot {
  explicit Slot(std::uint64_t bytes) : memory(bytes + 128, kUntouched) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    payload = std::span(memory).subspan((64 - misaligned) % 64, bytes);
  }
  std::vector<std::byte> memory;
  std::span<std::byte> payload;
};

CaptureRequest request_for(Policy& policy, const plan::ShareLayout& layout, Slot& slot) {
  CaptureRequest request;
  request.list = policy.list();
  request.published = policy.published();
  request.layout = layout;
  request.payload = slot.payload;
  return request;
}

plan::ShareLayout only_share(const Policy& policy) {
  return plan::split_shares(policy.published(), 1)[0];
}

void expect_sealed(const Policy& policy, const plan::ShareLayout& layout, const Slot& slot,
                   const CaptureResult& result) {
  ASSERT_TRUE(result.status.is_ok()) << result.status.to_string();
  ASSERT_EQ(result.digests.size(), layout.items.size());
  std::vector<bool> written(slot.payload.size(), false);
  for (std::size_t i = 0; i < layout.items.size(); ++i) {
    const auto& item = layout.items[i];
    const auto expected = policy.canonical(item.tensor);
    ASSERT_TRUE(expected.empty() || std::memcmp(slot.payload.data() + item.offset, expected.data(),
                                                expected.size()) == 0)
        << policy.published()[item.tensor].name;
    ASSERT_EQ(result.digests[i], policy.digest(item.tensor))
        << policy.published()[item.tensor].name;
    for (std::size_t b = 0; b < expected.size(); ++b) written[item.offset + b] = true;
  }
  for (std::size_t b = 0; b < written.size(); ++b) {
    ASSERT_TRUE(written[b] || slot.payload[b] == kUntouched) << "padding at " << b;
  }
}

// Some of everything, large and small, in chunks that end in the middle of tensors.
Policy mixed_policy(std::uint64_t seed) {
  Policy policy(seed);
  policy.add("linear.weight", DType::kF32, {211, 307});
  policy.add_transposed("transposed", DType::kF32, 173, 259);
  policy.add("scalar", DType::kF64, {});
  policy.add("empty", DType::kF32, {4, 0});
  policy.add("half", DType::kF16, {20001});
  policy.add_transposed("half.transposed", DType::kBF16, 333, 77);
  policy.add("ids", DType::kI64, {9999});
  policy.add("mask", DType::kBool, {40003});
  policy.add_buffer("running_mean", DType::kF32, {30000});
  policy.add("tied", DType::kF32, {64, 64}).info.aliases = {"tied.again", "tied.once.more"};
  policy.add("tiny", DType::kI8, {3});
  return policy;
}

CaptureOptions small_chunks(std::uint32_t threads = 2) {
  CaptureOptions options;
  options.threads = threads;
  options.inline_bytes = 256;
  options.chunk_bytes = 4000;  // rounded down to whole cache lines
  return options;
}

TEST(Capture, CopiesEveryKindOfTensor) {
  for (std::uint32_t threads : {1u, 2u, 5u}) {
    Policy policy = mixed_policy(threads);
    const auto layout = only_share(policy);
    Slot slot(layout.payload_bytes + 100);
    CapturePool pool(small_chunks(threads));
    Outcome outcome;

    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

    expect_sealed(policy, layout, slot, outcome.get());
    EXPECT_TRUE(pool.wait(soon()));
    EXPECT_EQ(outcome.calls(), 1);
  }
}

TEST(Capture, CastsWhilePublishing) {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF64}) {
    Policy policy = mixed_policy(7);
    policy.publish_floats_as(dtype);
    const auto layout = only_share(policy);
    Slot slot(layout.payload_bytes);
    CapturePool pool(small_chunks());
    Outcome outcome;

    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

    expect_sealed(policy, layout, slot, outcome.get());
  }
}

TEST(Capture, ChunksLargerThanTheScratchAreCopiedWhole) {
  Policy policy(3);
  policy.add_transposed("w", DType::kF32, 700, 801);
  policy.add("v", DType::kF32, {700, 801});
  policy.publish_floats_as(DType::kBF16);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(CaptureOptions{});
  Outcome outcome;

  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(Capture, EveryRankDigestsTheParametersOfTheWholePolicy) {
  Policy policy = mixed_policy(11);
  base::Digest whole;  // without buffers, in which the ranks may differ
  for (std::uint32_t i = 0; i < policy.published().size(); ++i) {
    if (!policy.published()[i].buffer) whole += policy.digest(i);
  }
  const auto layouts = plan::split_shares(policy.published(), 3);
  CapturePool pool(small_chunks());
  for (const auto& layout : layouts) {
    Slot slot(layout.payload_bytes);
    Outcome outcome;
    CaptureRequest request = request_for(policy, layout, slot);
    request.whole_policy_digest = true;

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());

    const CaptureResult result = outcome.get();
    expect_sealed(policy, layout, slot, result);
    EXPECT_EQ(result.policy_digest, whole);
    ASSERT_TRUE(pool.wait(soon()));
  }
}

TEST(Capture, BuffersAndSmallTensorsAreCopiedBeforeStartReturns) {
  Policy policy(5);
  policy.add_buffer("running_var", DType::kF32, {100'000});
  policy.add("bias", DType::kF32, {64});
  policy.add("weight", DType::kF32, {100'000});
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  const auto buffer = policy.canonical(0), bias = policy.canonical(1);
  Gate gate;
  CaptureRequest request = request_for(policy, layout, slot);
  request.list.unchanged = [&gate] { return gate.pass(), true; };
  Outcome outcome;
  {
    CapturePool pool(small_chunks());

    ASSERT_TRUE(pool.start(std::move(request), outcome.callback()).is_ok());
    // As a forward would: from here on the buffer is another.
    auto* changed = const_cast<void*>(policy.list().tensors[0].data);
    std::memset(changed, 0, policy.published()[0].bytes());
    std::memset(const_cast<void*>(policy.list().tensors[1].data), 0, policy.published()[1].bytes());
    gate.open();

    ASSERT_TRUE(outcome.get().status.is_ok());
  }
  EXPECT_EQ(std::memcmp(slot.payload.data() + layout.items[0].offset, buffer.data(), buffer.size()),
            0);
  EXPECT_EQ(std::memcmp(slot.payload.data() + layout.items[1].offset, bias.data(), bias.size()), 0);
  EXPECT_NE(outcome.thread(), std::this_thread::get_id());
}

TEST(Capture, AllInlineIsDoneBeforeStartReturns) {
  Policy policy(5);
  policy.add("bias", DType::kF32, {64});
  policy.add("empty", DType::kF32, {0});
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(CaptureOptions{});
  Outcome outcome;

  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  EXPECT_EQ(outcome.calls(), 1);
  EXPECT_EQ(outcome.thread(), std::this_thread::get_id());
  EXPECT_TRUE(pool.wait(Clock::now()));
  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(Capture, AnEmptyShareIsDoneAtOnce) {
  Policy policy(5);
  policy.add("bias", DType::kF32, {64});
  const auto layouts = plan::split_shares(policy.published(), 2);
  Slot slot(0);
  CapturePool pool(CaptureOptions{});
  Outcome outcome;

  ASSERT_TRUE(pool.start(request_for(policy, layouts[1], slot), outcome.callback()).is_ok());

  EXPECT_TRUE(outcome.get().status.is_ok());
  EXPECT_TRUE(outcome.get().digests.empty());
}

TEST(Capture, UnchangedIsAskedOnceAfterTheLastCopyOnAWorker) {
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

TEST(Capture, ATensorWrittenToMeanwhileIsStale) {
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

TEST(Capture, WaitEndsAtItsDeadlineAndStartIsRefusedMeanwhile) {
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

TEST(Capture, TensorsThatTheTrainerFreesMeanwhileLiveUntilTheLastCopy) {
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

TEST(Capture, CancelDropsWhatHasNotBegun) {
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

TEST(Capture, CancelRacingWithTheEndCallsDoneOnce) {
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

TEST(Capture, CancelWhenIdleDoesNotTouchTheNextOne) {
  Policy policy = mixed_policy(2);
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(small_chunks());
  Outcome outcome;

  pool.cancel();
  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(Capture, DestructionEndsARunningCapture) {
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

TEST(Capture, ManyCapturesFromOnePoolDoNotGrowIt) {
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

TEST(Capture, SizesMayChangeBetweenCaptures) {
  std::mt19937_64 random = seeded("SizesMayChangeBetweenCaptures");
  CapturePool pool(small_chunks(3));
  for (int round = 0; round < 30; ++round) {
    Policy policy(random());
    for (std::uint64_t i = random() % 40; i > 0; --i) {
      policy.add("t" + std::to_string(i), DType::kI16, {static_cast<std::int64_t>(random() % 9000)});
    }
    const auto layout = only_share(policy);
    Slot slot(layout.payload_bytes);
    Outcome outcome;

    ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());

    expect_sealed(policy, layout, slot, outcome.get());
    ASSERT_TRUE(pool.wait(soon()));
  }
}

TEST(Capture, RefusesWhatDoesNotFitAndSaysWhy) {
  Policy policy(1);
  policy.add("weight", DType::kF32, {100});
  policy.add("ids", DType::kI64, {10});
  const auto layout = only_share(policy);
  Slot slot(layout.payload_bytes);
  CapturePool pool(CaptureOptions{});
  const auto expect_refused = [&](const std::string& words, auto change) {
    CaptureRequest request = request_for(policy, layout, slot);
    change(request);
    Outcome outcome;

    const Status status = pool.start(std::move(request), outcome.callback());

    EXPECT_EQ(status.code(), Code::kInvalid) << words;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
    EXPECT_EQ(outcome.calls(), 0);
  };

  expect_refused("raise the slot's size",
                 [](CaptureRequest& r) { r.payload = r.payload.first(r.payload.size() - 1); });
  expect_refused("multiple of 64", [](CaptureRequest& r) { r.layout.items[1].offset += 8; });
  expect_refused("tensor number 2", [](CaptureRequest& r) { r.layout.items[0].tensor = 2; });
  expect_refused("one for each tensor", [](CaptureRequest& r) { r.published.pop_back(); });
  expect_refused("shape", [](CaptureRequest& r) { r.published[0].shape = {10, 10}; });
  expect_refused("i64 to f32", [](CaptureRequest& r) { r.published[1].dtype = DType::kF32; });
  expect_refused("stride", [](CaptureRequest& r) { r.list.tensors[0].strides = {1, 1}; });
  expect_refused("null", [](CaptureRequest& r) { r.list.tensors[0].data = nullptr; });

  Outcome outcome;
  ASSERT_TRUE(pool.start(request_for(policy, layout, slot), outcome.callback()).is_ok());
  expect_sealed(policy, layout, slot, outcome.get());
}

TEST(Capture, ACallbackThatThrowsLeavesThePoolUsable) {
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

TEST(Capture, WorkersAreNamedBatchThreadsAndLeaveWithThePool) {
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
