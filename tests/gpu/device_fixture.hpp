// What tests on a device share: the machine's CUDA, or the reason to skip, and buffers.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "driver/cuda.hpp"

namespace weightcast::driver {

inline std::mt19937_64 seeded(const char* test) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("%s seed=%llu\n", test, static_cast<unsigned long long>(seed));
  return std::mt19937_64(seed);
}

inline std::vector<std::byte> random_bytes(std::mt19937_64& random, std::size_t bytes) {
  std::vector<std::byte> all(bytes + 7);
  for (std::size_t at = 0; at < bytes; at += 8) {
    const std::uint64_t word = random();
    std::memcpy(all.data() + at, &word, 8);
  }
  all.resize(bytes);
  return all;
}

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto machine = load_cuda();
    if (!machine) GTEST_SKIP() << machine.status().to_string();
    cuda_ = *machine;
    stream_ = cuda_->create_stream(kDevice, false).value_or_throw();
    event_ = cuda_->create_event(kDevice, false).value_or_throw();
  }
  void TearDown() override {
    if (cuda_ == nullptr) return;
    EXPECT_TRUE(cuda_->synchronize(kDevice));
    for (void* memory : device_) cuda_->free(kDevice, memory);
    for (void* memory : host_) cuda_->free_host(memory);
    cuda_->destroy_event(kDevice, event_);
    cuda_->destroy_stream(kDevice, stream_);
  }

  /// Device memory until the test's end.
  std::byte* on_device(std::uint64_t bytes) {
    device_.push_back(cuda_->allocate(kDevice, bytes).value_or_throw());
    return static_cast<std::byte*>(device_.back());
  }
  std::byte* on_host(std::uint64_t bytes) {
    host_.push_back(cuda_->allocate_host(bytes).value_or_throw());
    return static_cast<std::byte*>(host_.back());
  }
  Status copy(void* to, const void* from, std::uint64_t bytes) {
    const CopyItem item{to, from, bytes};
    return cuda_->copy(kDevice, {&item, 1}, stream_);
  }
  /// Of the stream's work so far.
  Status finish() {
    if (Status s = cuda_->record(kDevice, event_, stream_); !s) return s;
    while (true) {
      const auto over = cuda_->done(kDevice, event_);
      if (!over) return over.status();
      if (*over) return {};
    }
  }

  static constexpr int kDevice = 0;
  std::shared_ptr<Cuda> cuda_;
  Stream stream_ = nullptr;
  Event event_ = nullptr;

 private:
  std::vector<void*> device_;
  std::vector<void*> host_;
};

}  // namespace weightcast::driver
