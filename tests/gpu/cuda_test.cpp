// Memory, copies, events and errors of the machine's CUDA.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "gpu/device_fixture.hpp"

namespace weightcast::driver {
namespace {

class CudaTest : public DeviceTest {};

TEST_F(CudaTest, SaysWhatTheDeviceIs) {
  EXPECT_GE(*cuda_->device_count(), 1);
  const auto properties = cuda_->properties(kDevice);
  ASSERT_TRUE(properties) << properties.status().to_string();
  EXPECT_FALSE(properties->name.empty());
  EXPECT_EQ(properties->identity.size(), 40u) << properties->identity;
  EXPECT_EQ(properties->identity.rfind("GPU-", 0), 0u);
  EXPECT_GT(properties->multiprocessors, 0);
  const auto memory = cuda_->memory(kDevice);
  ASSERT_TRUE(memory);
  EXPECT_GT(memory->free, 0u);
  EXPECT_LE(memory->free, memory->total);
}

TEST_F(CudaTest, KnowsWhereMemoryLies) {
  std::vector<std::byte> plain(16);
  EXPECT_EQ(*cuda_->device_of(on_device(1 << 20) + 5), kDevice);
  EXPECT_EQ(*cuda_->device_of(on_host(4096) + 5), -1);
  EXPECT_EQ(*cuda_->device_of(plain.data()), -1);
  EXPECT_EQ(*cuda_->device_of(nullptr), -1);
}

TEST_F(CudaTest, CopiesBetweenAllKindsOfMemory) {
  auto random = seeded("CopiesBetweenAllKindsOfMemory");
  constexpr std::size_t kBytes = 1 << 20;
  const auto given = random_bytes(random, kBytes);
  std::byte* pinned = on_host(kBytes);
  std::byte* first = on_device(kBytes);
  std::byte* second = on_device(kBytes);
  std::memcpy(pinned, given.data(), kBytes);
  // Two halves of odd sizes and one of none, in one call.
  const std::vector<CopyItem> items = {{first, pinned, 1001},
                                       {nullptr, nullptr, 0},
                                       {first + 1001, pinned + 1001, kBytes - 1001}};
  ASSERT_TRUE(cuda_->copy(kDevice, items, stream_));
  ASSERT_TRUE(copy(second, first, kBytes));
  std::vector<std::byte> back(kBytes);
  ASSERT_TRUE(copy(back.data(), second, kBytes));
  ASSERT_TRUE(finish());
  EXPECT_EQ(back, given);
}

TEST_F(CudaTest, AStreamWaitsForAnother) {
  constexpr std::size_t kBytes = 256 << 20;
  std::byte* from = on_host(kBytes);
  std::byte* middle = on_device(kBytes);
  std::byte* to = on_host(8);
  std::memset(from, 1, kBytes);
  std::memset(to, 0, 8);
  const Stream side = cuda_->create_stream(kDevice, true).value_or_throw();
  ASSERT_TRUE(copy(middle, from, kBytes));
  ASSERT_TRUE(cuda_->record(kDevice, event_, stream_));
  ASSERT_TRUE(cuda_->wait(kDevice, side, event_));
  const CopyItem end{to, middle + kBytes - 8, 8};
  ASSERT_TRUE(cuda_->copy(kDevice, {&end, 1}, side));
  ASSERT_TRUE(cuda_->synchronize(kDevice));
  EXPECT_TRUE(*cuda_->done(kDevice, event_));
  EXPECT_EQ(to[7], std::byte{1});
  cuda_->destroy_stream(kDevice, side);
}

TEST_F(CudaTest, TimesCopies) {
  constexpr std::size_t kBytes = 64 << 20;
  const Event from = cuda_->create_event(kDevice, true).value_or_throw();
  const Event to = cuda_->create_event(kDevice, true).value_or_throw();
  std::byte* device = on_device(kBytes);
  std::byte* host = on_host(kBytes);
  ASSERT_TRUE(cuda_->record(kDevice, from, stream_));
  ASSERT_TRUE(copy(device, host, kBytes));
  ASSERT_TRUE(cuda_->record(kDevice, to, stream_));
  ASSERT_TRUE(cuda_->synchronize(kDevice));
  const auto time = cuda_->elapsed(kDevice, from, to);
  ASSERT_TRUE(time) << time.status().to_string();
  EXPECT_GT(time->count(), 0);
  EXPECT_FALSE(cuda_->elapsed(kDevice, from, event_));  // not a timed one
  cuda_->destroy_event(kDevice, from);
  cuda_->destroy_event(kDevice, to);
}

TEST_F(CudaTest, RegistersASharedMapping) {
  auto random = seeded("RegistersASharedMapping");
  constexpr std::size_t kBytes = 8 << 20;
  const int fd = ::memfd_create("weightcast gpu test", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(::ftruncate(fd, kBytes), 0);
  void* writable = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  void* readable = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd, 0);
  ::close(fd);
  ASSERT_NE(writable, MAP_FAILED);
  ASSERT_NE(readable, MAP_FAILED);
  ASSERT_TRUE(cuda_->register_host(writable, kBytes));
  EXPECT_FALSE(cuda_->register_host(writable, kBytes));

  const auto given = random_bytes(random, kBytes);
  std::byte* device = on_device(kBytes);
  ASSERT_TRUE(copy(device, given.data(), kBytes));
  ASSERT_TRUE(copy(writable, device, kBytes));
  ASSERT_TRUE(finish());
  EXPECT_EQ(std::memcmp(readable, given.data(), kBytes), 0);

  const auto reading = cuda_->register_host(readable, kBytes);
  if (reading) {
    std::byte* other = on_device(kBytes);
    std::vector<std::byte> back(kBytes);
    ASSERT_TRUE(copy(other, readable, kBytes));
    ASSERT_TRUE(copy(back.data(), other, kBytes));
    ASSERT_TRUE(finish());
    EXPECT_EQ(back, given);
    cuda_->unregister_host(readable, kBytes);
  } else {
    EXPECT_FALSE(cuda_->properties(kDevice)->registers_read_only) << reading.to_string();
  }
  cuda_->unregister_host(writable, kBytes);
  ASSERT_TRUE(cuda_->register_host(writable, kBytes));
  cuda_->unregister_host(writable, kBytes);
  ::munmap(writable, kBytes);
  ::munmap(readable, kBytes);
}

TEST_F(CudaTest, MapsErrorsAndGoesOn) {
  const auto memory = cuda_->memory(kDevice);
  ASSERT_TRUE(memory);
  EXPECT_EQ(cuda_->allocate(kDevice, memory->total * 2).status().code(), Code::kExhausted);
  EXPECT_EQ(cuda_->allocate(kDevice, 0).status().code(), Code::kInvalid);
  EXPECT_EQ(cuda_->allocate(1000, 8).status().code(), Code::kInvalid);
  EXPECT_EQ(cuda_->create_stream(-1, false).status().code(), Code::kInvalid);
  EXPECT_EQ(cuda_->export_memory(kDevice, on_host(4096)).status().code(), Code::kInvalid);
  EXPECT_FALSE(cuda_->open_memory(kDevice, IpcHandle{}));
  std::byte* device = on_device(4096);
  EXPECT_TRUE(copy(on_host(4096), device, 4096));
  EXPECT_TRUE(finish());
}

TEST_F(CudaTest, GivesEverythingBack) {
  const auto once = [&] {
    void* device = cuda_->allocate(kDevice, 64 << 20).value_or_throw();
    void* host = cuda_->allocate_host(1 << 20).value_or_throw();
    auto job = cuda_->make_digests(kDevice, 4096, 1024).value_or_throw();
    const DigestPart part{device, 1 << 20, 0, 0};
    EXPECT_TRUE(job->start({&part, 1}, stream_));
    EXPECT_TRUE(finish());
    job.reset();
    cuda_->free(kDevice, device);
    cuda_->free_host(host);
    const Stream stream = cuda_->create_stream(kDevice, true).value_or_throw();
    cuda_->destroy_stream(kDevice, stream);
  };
  for (int i = 0; i < 3; ++i) once();
  const std::uint64_t before = cuda_->memory(kDevice)->free;
  for (int i = 0; i < 100; ++i) once();
  const std::uint64_t after = cuda_->memory(kDevice)->free;
  // 100 of what once() takes would be 6 GiB.
  EXPECT_GE(after + (std::uint64_t{256} << 20), before);
}

}  // namespace
}  // namespace weightcast::driver
