// What the tests of CapturePool share: policies with storage, slots, and what `done` was told.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "codec/convert.hpp"
#include "codec/digest.hpp"
#include "plan/shares.hpp"
#include "publisher/capture.hpp"
#include "support/seeded.hpp"

namespace weightcast::publisher::test {

inline Deadline soon() { return Clock::now() + std::chrono::seconds(60); }

using weightcast::test::seeded;

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

  // All tensors but the first two are boxes, each in the middle of a larger tensor.
  void shard_all_but_two() {
    for (std::size_t i = 2; i < published_.size(); ++i) {
      for (TensorInfo* info : {&list_.tensors[i].info, &published_[i]}) {
        for (const std::int64_t d : info->shape) {
          info->global_shape.push_back(2 * d + 1);
          info->origin.push_back(d);
        }
      }
    }
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

inline constexpr std::byte kUntouched{0xA5};

struct Slot {
  explicit Slot(std::uint64_t bytes) : memory(bytes + 128, kUntouched) {
    const auto misaligned = reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    payload = std::span(memory).subspan((64 - misaligned) % 64, bytes);
  }
  std::vector<std::byte> memory;
  std::span<std::byte> payload;
};

inline CaptureRequest request_for(Policy& policy, const plan::ShareLayout& layout, Slot& slot) {
  CaptureRequest request;
  request.list = policy.list();
  request.published = policy.published();
  request.layout = layout;
  request.payload = slot.payload;
  return request;
}

inline plan::ShareLayout only_share(const Policy& policy) {
  return plan::own_share(policy.published(), 0, 1);
}

inline void expect_sealed(const Policy& policy, const plan::ShareLayout& layout, const Slot& slot,
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
inline Policy mixed_policy(std::uint64_t seed) {
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

inline CaptureOptions small_chunks(std::uint32_t threads = 2) {
  CaptureOptions options;
  options.threads = threads;
  options.inline_bytes = 256;
  options.chunk_bytes = 4000;  // rounded down to whole cache lines
  return options;
}

}  // namespace weightcast::publisher::test
