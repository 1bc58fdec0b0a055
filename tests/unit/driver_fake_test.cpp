// The fake's own semantics: tests of everything else stand on them.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "codec/digest.hpp"
#include "support/child_process.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast::driver {
namespace {

constexpr std::uint64_t kBytes = 256 << 10;

class DriverFakeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    device_ = static_cast<std::byte*>(*cuda_.allocate(0, kBytes));
    host_ = static_cast<std::byte*>(*cuda_.allocate_host(kBytes));
    stream_ = *cuda_.create_stream(0, false);
    event_ = *cuda_.create_event(0, false);
  }
  void TearDown() override {
    cuda_.resume();
    EXPECT_TRUE(cuda_.synchronize(0));
    cuda_.free(0, device_);
    cuda_.free_host(host_);
    cuda_.destroy_stream(0, stream_);
    cuda_.destroy_event(0, event_);
    EXPECT_EQ(cuda_.held(), FakeCounts{});
    if (expects_no_violation_) {
      EXPECT_EQ(cuda_.violations(), std::vector<std::string>{});
    }
  }

  Status copy_down(std::uint64_t bytes = kBytes) {
    const CopyItem item{host_, device_, bytes};
    return cuda_.copy(0, {&item, 1}, stream_);
  }

  FakeCuda cuda_{{.device_bytes = 1 << 20}};
  std::byte* device_ = nullptr;
  std::byte* host_ = nullptr;
  Stream stream_ = nullptr;
  Event event_ = nullptr;
  bool expects_no_violation_ = true;
};

TEST_F(DriverFakeTest, CopiesRunBehindTheCallerAndPollingBringsThemOn) {
  std::memset(device_, 7, kBytes);
  ASSERT_TRUE(copy_down());
  ASSERT_TRUE(cuda_.record(0, event_, stream_));
  EXPECT_EQ(host_[0], std::byte{0});
  EXPECT_FALSE(*cuda_.done(0, event_));
  EXPECT_EQ(host_[0], std::byte{7});
  EXPECT_EQ(host_[kBytes - 1], std::byte{0});
  int polls = 0;
  while (!*cuda_.done(0, event_)) ASSERT_LT(++polls, 100);
  EXPECT_EQ(host_[kBytes - 1], std::byte{7});
  EXPECT_EQ(cuda_.copied_bytes(), kBytes);
  EXPECT_EQ(cuda_.pageable_copies(), 0u);
}

TEST_F(DriverFakeTest, ACopyHeldBackSeesWhatIsWrittenMeanwhile) {
  cuda_.hold();
  std::memset(device_, 1, kBytes);
  ASSERT_TRUE(copy_down());
  ASSERT_TRUE(cuda_.record(0, event_, stream_));
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(*cuda_.done(0, event_));
  ASSERT_TRUE(cuda_.step());
  std::memset(device_, 2, kBytes);
  cuda_.run_all();
  EXPECT_TRUE(*cuda_.done(0, event_));
  EXPECT_EQ(host_[0], std::byte{1});
  EXPECT_EQ(host_[kBytes - 1], std::byte{2});
}

TEST_F(DriverFakeTest, AStreamWaitsForTheEventOfAnother) {
  const Stream side = *cuda_.create_stream(0, true);
  cuda_.hold_stream(0, stream_);
  cuda_.enqueue(0, stream_, [&] { std::memset(device_, 3, kBytes); });
  ASSERT_TRUE(cuda_.record(0, event_, stream_));
  ASSERT_TRUE(cuda_.wait(0, side, event_));
  const CopyItem item{host_, device_, kBytes};
  ASSERT_TRUE(cuda_.copy(0, {&item, 1}, side));
  cuda_.run_all();
  EXPECT_EQ(cuda_.copied_bytes(), 0u);
  EXPECT_GT(cuda_.pending(), 0u);
  cuda_.resume_stream(0, stream_);
  ASSERT_TRUE(cuda_.synchronize(0));
  EXPECT_EQ(host_[kBytes - 1], std::byte{3});
  EXPECT_EQ(cuda_.pending(), 0u);
  cuda_.destroy_stream(0, side);
}

TEST_F(DriverFakeTest, AnEventStandsForItsLastRecordOnly) {
  EXPECT_TRUE(*cuda_.done(0, event_));
  ASSERT_TRUE(cuda_.record(0, event_, stream_));
  cuda_.run_all();
  EXPECT_TRUE(*cuda_.done(0, event_));
  cuda_.hold();
  ASSERT_TRUE(copy_down());
  ASSERT_TRUE(cuda_.record(0, event_, stream_));
  EXPECT_FALSE(*cuda_.done(0, event_));
}

TEST_F(DriverFakeTest, AnswersWhereMemoryLies) {
  std::vector<std::byte> plain(16);
  EXPECT_EQ(*cuda_.device_of(device_ + kBytes - 1), 0);
  EXPECT_EQ(*cuda_.device_of(host_), -1);
  EXPECT_EQ(*cuda_.device_of(plain.data()), -1);
}

TEST_F(DriverFakeTest, PlainHostMemoryMakesACopyWait) {
  std::vector<std::byte> plain(kBytes);
  std::memset(device_, 9, kBytes);
  const CopyItem item{plain.data(), device_, kBytes};
  ASSERT_TRUE(cuda_.copy(0, {&item, 1}, stream_));
  EXPECT_EQ(plain.back(), std::byte{9});
  EXPECT_EQ(cuda_.pageable_copies(), 1u);
}

TEST_F(DriverFakeTest, KeepsToItsBudget) {
  EXPECT_EQ(cuda_.memory(0)->free, (1u << 20) - kBytes);
  EXPECT_EQ(cuda_.memory(0)->total, 1u << 20);
  EXPECT_EQ(cuda_.allocate(0, 1 << 20).status().code(), Code::kExhausted);
  cuda_.set_device_bytes(0, 4 << 20);
  const auto more = cuda_.allocate(0, 1 << 20);
  ASSERT_TRUE(more) << more.status().to_string();
  EXPECT_EQ(cuda_.held().allocations, 2u);
  cuda_.free(0, *more);
}

TEST_F(DriverFakeTest, FailsTheCallAndTheWorkThatItIsToldTo) {
  cuda_.fail("copy", Status(Code::kInternal, "wanted"), 2);
  EXPECT_TRUE(copy_down());
  EXPECT_EQ(copy_down().code(), Code::kInternal);
  EXPECT_TRUE(copy_down());
  EXPECT_EQ(cuda_.calls("copy"), 3u);
  ASSERT_TRUE(cuda_.synchronize(0));

  const Stream broken = *cuda_.create_stream(0, false);
  cuda_.fail_work(0, Status(Code::kUnavailable, "fell off the bus"));
  const CopyItem item{host_, device_, kBytes};
  ASSERT_TRUE(cuda_.copy(0, {&item, 1}, broken));
  ASSERT_TRUE(cuda_.record(0, event_, broken));
  cuda_.run_all();
  EXPECT_EQ(cuda_.done(0, event_).status().code(), Code::kUnavailable);
  EXPECT_EQ(cuda_.synchronize(0).code(), Code::kUnavailable);
  cuda_.destroy_stream(0, broken);
}

TEST_F(DriverFakeTest, SeesUseAfterFreeAndRangesThatReachTooFar) {
  expects_no_violation_ = false;
  const CopyItem beyond{host_, device_ + 1, kBytes};
  EXPECT_EQ(cuda_.copy(0, {&beyond, 1}, stream_).code(), Code::kInvalid);
  EXPECT_EQ(cuda_.violations().size(), 1u);

  auto* gone = *cuda_.allocate(0, 4096);
  cuda_.free(0, gone);
  const CopyItem freed{host_, gone, 8};
  EXPECT_EQ(cuda_.copy(0, {&freed, 1}, stream_).code(), Code::kInvalid);
  cuda_.free(0, gone);
  EXPECT_EQ(cuda_.violations().size(), 3u);

  const Stream stream = *cuda_.create_stream(0, false);
  auto* early = *cuda_.allocate(0, 4096);
  const CopyItem running{host_, early, 4096};
  ASSERT_TRUE(cuda_.copy(0, {&running, 1}, stream));
  cuda_.free(0, early);
  cuda_.run_all();
  EXPECT_EQ(cuda_.synchronize(0).code(), Code::kInvalid);
  EXPECT_EQ(cuda_.violations().size(), 4u);
  cuda_.destroy_stream(0, stream);
  EXPECT_EQ(cuda_.record(0, event_, stream).code(), Code::kInvalid);
}

TEST_F(DriverFakeTest, ALostDeviceAnswersNothing) {
  FakeCuda cuda({.devices = 2});
  cuda.lose(1);
  EXPECT_EQ(cuda.memory(1).status().code(), Code::kUnavailable);
  EXPECT_EQ(cuda.create_stream(1, false).status().code(), Code::kUnavailable);
  EXPECT_TRUE(cuda.memory(0));
}

TEST_F(DriverFakeTest, RegistersWholePagesOnce) {
  void* pages = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  EXPECT_TRUE(cuda_.register_host(pages, 8192));
  EXPECT_EQ(cuda_.register_host(pages, 4096).code(), Code::kInvalid);
  EXPECT_EQ(cuda_.held().registered, 1u);
  const CopyItem item{pages, device_, 8192};
  EXPECT_TRUE(cuda_.copy(0, {&item, 1}, stream_));
  EXPECT_EQ(cuda_.pageable_copies(), 0u);
  EXPECT_TRUE(cuda_.synchronize(0));
  cuda_.unregister_host(pages, 8192);
  EXPECT_EQ(cuda_.register_host(static_cast<std::byte*>(pages) + 8, 4096).code(), Code::kInvalid);
  ::munmap(pages, 8192);
}

TEST_F(DriverFakeTest, DigestsAddUpInTheirSums) {
  std::iota(reinterpret_cast<unsigned char*>(device_),
            reinterpret_cast<unsigned char*>(device_) + kBytes, static_cast<unsigned char>(1));
  const auto job = cuda_.make_digests(0, 3, 2).value_or_throw();
  const std::vector<DigestPart> parts = {{device_, 80000, 0, 1},
                                         {device_ + 100000, 13, 5, 0},
                                         {device_ + 80000, 20003, 10000, 1}};
  ASSERT_TRUE(job->start(parts, stream_));
  ASSERT_TRUE(cuda_.record(0, event_, stream_));
  EXPECT_EQ(job->sums()[1], base::Digest{});
  ASSERT_TRUE(cuda_.synchronize(0));
  EXPECT_EQ(job->sums()[0], codec::digest(device_ + 100000, 13, 5));
  EXPECT_EQ(job->sums()[1], codec::digest(device_, 100003, 0));
  EXPECT_EQ(job->start(std::vector<DigestPart>(4), stream_).code(), Code::kInvalid);
  const DigestPart no_sum{device_, 8, 0, 2};
  EXPECT_EQ(job->start({&no_sum, 1}, stream_).code(), Code::kInvalid);
}

TEST_F(DriverFakeTest, DigestsCopyWhereTheyAreAskedTo) {
  std::iota(reinterpret_cast<unsigned char*>(device_),
            reinterpret_cast<unsigned char*>(device_) + kBytes, static_cast<unsigned char>(1));
  const auto job = cuda_.make_digests(0, 1, 1).value_or_throw();
  const DigestPart part{.data = device_ + 3, .bytes = 70001, .to = device_ + 100000};
  const std::vector<std::byte> before(device_, device_ + kBytes);
  ASSERT_TRUE(job->start({&part, 1}, stream_));
  ASSERT_TRUE(cuda_.synchronize(0));
  EXPECT_EQ(job->sums()[0], codec::digest(before.data() + 3, 70001, 0));
  EXPECT_EQ(std::memcmp(device_ + 100000, before.data() + 3, 70001), 0);
  EXPECT_EQ(device_[170001], before[170001]);
  EXPECT_EQ(cuda_.copied_bytes(), 70001u);
  const DigestPart odd{.data = device_, .bytes = 8, .to = device_ + 100004};
  EXPECT_EQ(job->start({&odd, 1}, stream_).code(), Code::kInvalid);
}

TEST_F(DriverFakeTest, AKernelReadsWhatIsMappedOnItsDevice) {
  FakeCuda cuda({.devices = 2});
  auto* const memory = static_cast<std::byte*>(*cuda.allocate(0, 64));
  const auto stream = *cuda.create_stream(1, false);
  {
    const auto job = cuda.make_digests(1, 1, 1).value_or_throw();
    const DigestPart part{.data = memory, .bytes = 64};
    EXPECT_FALSE(job->start({&part, 1}, stream).is_ok());
    EXPECT_EQ(cuda.violations().size(), 1u);
    auto* const mapped = static_cast<std::byte*>(*cuda.open_memory(1, *cuda.export_memory(0, memory)));
    const DigestPart near{.data = mapped, .bytes = 64};
    EXPECT_TRUE(job->start({&near, 1}, stream).is_ok());
    EXPECT_TRUE(cuda.synchronize(1));
    cuda.close_memory(1, mapped);
  }
  cuda.destroy_stream(1, stream);
  cuda.free(0, memory);

  FakeCuda strangers({.devices = 2, .are_peers = false});
  void* const far = *strangers.allocate(0, 64);
  EXPECT_FALSE(strangers.open_memory(1, *strangers.export_memory(0, far)).is_ok());
  strangers.free(0, far);
}

TEST_F(DriverFakeTest, GathersAndCasts) {
  auto* from = reinterpret_cast<float*>(device_);
  for (int i = 0; i < 6; ++i) from[i] = static_cast<float>(i);
  auto* to = reinterpret_cast<double*>(device_ + 4096);
  const std::int64_t shape[] = {3, 2};
  const std::int64_t strides[] = {1, 3};
  const GatherItem item{to, DType::kF64, from, DType::kF32, 6, shape, strides};
  ASSERT_TRUE(cuda_.gather(0, {&item, 1}, stream_));
  ASSERT_TRUE(cuda_.synchronize(0));
  EXPECT_EQ(std::vector<double>(to, to + 6), (std::vector<double>{0, 3, 1, 4, 2, 5}));
  const GatherItem integers{to, DType::kF64, from, DType::kI32, 6, {}, {}};
  EXPECT_EQ(cuda_.gather(0, {&integers, 1}, stream_).code(), Code::kInvalid);
}

TEST_F(DriverFakeTest, TimesWhatItDoes) {
  const Event from = *cuda_.create_event(0, true), to = *cuda_.create_event(0, true);
  ASSERT_TRUE(cuda_.record(0, from, stream_));
  ASSERT_TRUE(copy_down());
  ASSERT_TRUE(cuda_.record(0, to, stream_));
  ASSERT_TRUE(cuda_.synchronize(0));
  EXPECT_GT(cuda_.elapsed(0, from, to)->count(), 0);
  cuda_.destroy_event(0, from);
  cuda_.destroy_event(0, to);
}

TEST_F(DriverFakeTest, OpensWhatItExportedOnce) {
  const IpcHandle handle = *cuda_.export_memory(0, device_);
  EXPECT_FALSE(cuda_.export_memory(0, device_ + 8));
  const auto opened = cuda_.open_memory(0, handle);
  ASSERT_TRUE(opened) << opened.status().to_string();
  EXPECT_EQ(cuda_.held().opened, 1u);
  EXPECT_EQ(*cuda_.device_of(*opened), 0);
  EXPECT_EQ(cuda_.open_memory(0, handle).status().code(), Code::kInvalid);
  std::memset(device_, 5, 8);
  EXPECT_EQ(*static_cast<std::byte*>(*opened), std::byte{5});
  cuda_.close_memory(0, *opened);

  FakeCuda strict({.opens_own_memory = false});
  EXPECT_EQ(strict.open_memory(0, handle).status().code(), Code::kInvalid);
  EXPECT_EQ(strict.open_memory(0, IpcHandle{}).status().code(), Code::kInvalid);
}

TEST(DriverFakeProcessesTest, AnotherProcessOpensTheMemory) {
  test::ChildProcess owner([](const test::Talk& talk) {
    FakeCuda cuda;
    auto* memory = static_cast<std::byte*>(*cuda.allocate(0, 4096));
    std::memset(memory, 6, 4096);
    const IpcHandle handle = *cuda.export_memory(0, memory);
    std::string hex;
    for (std::byte b : handle.bytes) {
      hex += "0123456789abcdef"[std::to_integer<unsigned>(b) / 16];
      hex += "0123456789abcdef"[std::to_integer<unsigned>(b) % 16];
    }
    talk.say(hex);
    talk.hear();
    return memory[1] == std::byte{8} ? 0 : 1;
  });
  const std::string hex = owner.hear();
  ASSERT_EQ(hex.size(), 128u);
  IpcHandle handle;
  for (std::size_t i = 0; i < 64; ++i) {
    handle.bytes[i] = static_cast<std::byte>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  FakeCuda cuda({.opens_own_memory = false});
  const auto opened = cuda.open_memory(0, handle);
  ASSERT_TRUE(opened) << opened.status().to_string();
  auto* memory = static_cast<std::byte*>(*opened);
  EXPECT_EQ(memory[0], std::byte{6});
  memory[1] = std::byte{8};
  owner.say("written");
  EXPECT_EQ(owner.wait(), 0);
  cuda.close_memory(0, *opened);
  EXPECT_EQ(cuda.open_memory(0, handle).status().code(), Code::kNotFound);
  EXPECT_EQ(cuda.held(), FakeCounts{});
}

TEST(DriverFakeThreadTest, WorksBehindTheCallersBack) {
  FakeCuda cuda({.threaded = true, .bytes_a_second = std::uint64_t{256} << 20});
  constexpr std::uint64_t kAll = 8 << 20;
  auto* from = static_cast<std::byte*>(*cuda.allocate(0, kAll));
  auto* to = static_cast<std::byte*>(*cuda.allocate(0, kAll));
  std::memset(from, 4, kAll);
  const Stream stream = *cuda.create_stream(0, false);
  const Event event = *cuda.create_event(0, false);
  const CopyItem item{to, from, kAll};
  cuda.hold();
  ASSERT_TRUE(cuda.copy(0, {&item, 1}, stream));
  ASSERT_TRUE(cuda.record(0, event, stream));
  EXPECT_FALSE(*cuda.done(0, event));
  cuda.resume();
  std::memset(from, 5, kAll);  // races with the copy, as a trainer may
  ASSERT_TRUE(cuda.synchronize(0));
  EXPECT_TRUE(*cuda.done(0, event));
  const auto strange = std::count_if(to, to + kAll, [](std::byte b) {
    return b != std::byte{4} && b != std::byte{5};
  });
  EXPECT_EQ(strange, 0);
  cuda.free(0, from);
  cuda.free(0, to);
  cuda.destroy_stream(0, stream);
  cuda.destroy_event(0, event);
  EXPECT_EQ(cuda.held(), FakeCounts{});
  EXPECT_EQ(cuda.violations(), std::vector<std::string>{});
}

}  // namespace
}  // namespace weightcast::driver
