// The cuda_ipc transport under the contract of all transports, and what is its own; with a device
// in host memory.
#include "transport/cuda_ipc/cuda_ipc_transport.hpp"

#include <poll.h>

#include <chrono>
#include <cstring>

#include "contract/transport_contract.hpp"
#include "contract/transport_endurance.hpp"
#include "contract/transport_strips.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast::transport {
namespace {

/// A source whose slots are headers and whose payloads lie in one allocation of a device.
class DeviceSource {
 public:
  DeviceSource(driver::FakeCuda& cuda, const std::string& job, std::uint64_t incarnation)
      : cuda_(cuda) {
    auto slab = staging::Slab::create(
        {{job, "policy", kRun, 0, incarnation}, kSlots, kSlotBytes, false});
    EXPECT_TRUE(slab.is_ok()) << slab.status().to_string();
    slab_ = std::move(*slab);
    memory_ = static_cast<std::byte*>(*cuda_.allocate(0, kSlots * kSlotBytes));
    const auto handle = *cuda_.export_memory(0, memory_);
    handle_.assign(reinterpret_cast<const char*>(handle.bytes.data()), handle.bytes.size());
  }
  ~DeviceSource() { cuda_.free(0, memory_); }

  std::optional<SegmentAddress> publish(std::uint32_t slot, std::uint64_t number,
                                        std::uint64_t bytes) {
    if (!slab_->try_lock(slot)) return std::nullopt;
    const Version version{kRun, number};
    const auto generation = slab_->begin_write(slot);
    test::fill_pattern({memory_ + slot * kSlotBytes, bytes}, number);
    slab_->seal(slot, version, bytes);
    slab_->unlock(slot);
    SegmentAddress address{slab_->object_name(slot), version, generation, bytes};
    address.device = cuda_.properties(0)->identity;
    address.device_memory = handle_;
    address.device_offset = slot * kSlotBytes;
    return address;
  }
  bool can_overwrite(std::uint32_t slot) {
    const bool can = slab_->try_lock(slot);
    if (can) slab_->unlock(slot);
    return can;
  }

 private:
  static constexpr Run kRun{1700000000000000, 3};
  driver::FakeCuda& cuda_;
  std::unique_ptr<staging::Slab> slab_;
  std::byte* memory_ = nullptr;
  std::string handle_;
};

class CudaIpcHarness {
 public:
  static constexpr bool kAsksAPeer = false;
  CudaIpcHarness() { restart(); }
  ~CudaIpcHarness() {
    source_.reset();
    staging::sweep(job_);
    EXPECT_TRUE(test::shm_objects("." + job_ + ".").empty()) << "left behind in /dev/shm";
    EXPECT_EQ(cuda_->held(), driver::FakeCounts{});
    EXPECT_EQ(cuda_->violations(), std::vector<std::string>{});
  }

  Transport& transport() { return transport_; }
  driver::FakeCuda& cuda() { return *cuda_; }
  std::optional<SegmentAddress> publish(std::uint32_t slot, std::uint64_t number,
                                        std::uint64_t bytes) {
    return source_->publish(slot, number, bytes);
  }
  bool can_overwrite(std::uint32_t slot) { return source_->can_overwrite(slot); }
  void restart() {
    source_.reset();
    source_ = std::make_unique<DeviceSource>(*cuda_, job_, ++incarnation_);
  }

 private:
  const std::string job_ = test::unique_job();
  std::uint64_t incarnation_ = 0;
  const std::shared_ptr<driver::FakeCuda> cuda_ =
      std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2});
  std::unique_ptr<DeviceSource> source_;
  CudaIpcTransport transport_{cuda_};
};

INSTANTIATE_TYPED_TEST_SUITE_P(CudaIpc, TransportContract, CudaIpcHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaIpc, TransportEndurance, CudaIpcHarness);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaIpc, TransportStrips, CudaIpcHarness);

using CudaIpcTest = TransportTest<CudaIpcHarness>;

TEST_F(CudaIpcTest, ShowsTheSourcesOwnDeviceMemory) {
  const auto lane = this->lane();
  const auto segment = acquire(*lane, publish(1, 4));
  ASSERT_TRUE(segment);
  EXPECT_TRUE(segment->view().empty());
  const auto seen = segment->device_view();
  ASSERT_EQ(seen.size(), kSlotBytes);
  EXPECT_EQ(*harness.cuda().device_of(seen.data()), 0);
  EXPECT_EQ(test::first_difference(seen, 4), seen.size());
}

TEST_F(CudaIpcTest, OpensAnAllocationOnceForAllSlotsAndLanes) {
  {
    const auto one = lane();
    const auto two = lane();
    for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
      ASSERT_TRUE(acquire(*one, publish(slot, 1 + slot)));
      ASSERT_TRUE(acquire(*two, publish(slot, 5 + slot)));
    }
    EXPECT_EQ(harness.cuda().calls("open_memory"), 1u);
    EXPECT_EQ(harness.cuda().held().opened, 1u);
  }
  EXPECT_EQ(harness.cuda().held().opened, 0u);
}

TEST_F(CudaIpcTest, ClosesWhatAFormerLifeOfTheSourceHadOnceNobodyHoldsIt) {
  const auto lane = this->lane();
  auto held = acquire(*lane, publish(0, 1));
  harness.restart();
  ASSERT_TRUE(acquire(*lane, publish(0, 2)));
  EXPECT_EQ(harness.cuda().held().opened, 2u);
  EXPECT_EQ(test::first_difference(held->device_view(), 1), kSlotBytes);
  held.reset();
  EXPECT_EQ(harness.cuda().held().opened, 1u);
}

TEST_F(CudaIpcTest, RefusesWhatItCannotOpen) {
  const auto lane = this->lane();
  const SegmentAddress good = publish(0, 1);
  SegmentAddress bad = good;
  bad.device_memory.pop_back();
  EXPECT_EQ(lane->acquire(bad).status().code(), Code::kInvalid);
  bad = good;
  bad.device = "GPU-elsewhere";
  const auto elsewhere = lane->acquire(bad);
  EXPECT_EQ(elsewhere.status().code(), Code::kUnavailable);
  EXPECT_NE(elsewhere.status().message().find("CUDA_VISIBLE_DEVICES"), std::string::npos);
  bad = good;
  bad.device_memory[0] = 'x';
  EXPECT_EQ(lane->acquire(bad).status().code(), Code::kInvalid);
  EXPECT_TRUE(is_free(0)) << "a refused segment holds its slot";
}

TEST_F(CudaIpcTest, ErrorsOfTheDeviceEndABucketAndLeakNothing) {
  for (const char* const call :
       {"create_stream", "create_event", "allocate_host", "copy", "record", "done"}) {
    const auto lane = this->lane();
    const auto segment = acquire(*lane, publish(0, 1));
    ASSERT_TRUE(segment);
    std::vector<std::byte> space(kSlotBytes);
    harness.cuda().fail(call, Status(Code::kInternal, "injected"));
    ASSERT_TRUE(lane->submit(segment, {1, 0, space, {}}).is_ok());
    auto ended = take(*lane, 1);
    ASSERT_EQ(ended.size(), 1u) << call;
    EXPECT_EQ(ended[0].status.code(), Code::kInternal) << call;
    ASSERT_TRUE(lane->submit(segment, {2, 0, space, {}}).is_ok());
    ended = take(*lane, 1);
    ASSERT_EQ(ended.size(), 1u) << call;
    EXPECT_TRUE(ended[0].status.is_ok()) << call << ": " << ended[0].status.to_string();
    EXPECT_EQ(test::first_difference(space, 1), kSlotBytes) << call;
  }
}

TEST(CudaIpcTransport, AProcessDoesNotOpenItsOwnMemory) {
  const auto cuda =
      std::make_shared<driver::FakeCuda>(driver::FakeOptions{.opens_own_memory = false});
  const std::string job = test::unique_job();
  DeviceSource source(*cuda, job, 1);
  CudaIpcTransport transport(cuda);
  auto lane = transport.open_lane({});
  ASSERT_TRUE(lane.is_ok());
  const auto segment = (*lane)->acquire(*source.publish(0, 1, kSlotBytes));
  ASSERT_FALSE(segment.is_ok());
  EXPECT_EQ(segment.status().code(), Code::kInvalid);
  EXPECT_NE(segment.status().message().find("staging to host"), std::string::npos);
}

TEST(CudaIpcTransport, AReaderOnAnotherDeviceHasItMappedThere) {
  const auto cuda = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2});
  DeviceSource source(*cuda, test::unique_job(), 1);
  CudaIpcTransport transport(cuda, 1);
  auto lane = transport.open_lane({});
  ASSERT_TRUE(lane.is_ok());
  const auto segment = (*lane)->acquire(*source.publish(0, 3, kSlotBytes));
  ASSERT_TRUE(segment.is_ok()) << segment.status().to_string();
  const auto seen = (*segment)->device_view();
  ASSERT_EQ(seen.size(), kSlotBytes);
  EXPECT_EQ(*cuda->device_of(seen.data()), 1);
  EXPECT_EQ(test::first_difference(seen, 3), seen.size());
}

TEST(CudaIpcTransport, WithoutAccessBetweenTheDevicesItMovesBucketsAlone) {
  const auto cuda =
      std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2, .are_peers = false});
  DeviceSource source(*cuda, test::unique_job(), 1);
  CudaIpcTransport transport(cuda, 1);
  auto lane = transport.open_lane({});
  ASSERT_TRUE(lane.is_ok());
  const auto segment = (*lane)->acquire(*source.publish(0, 3, kSlotBytes));
  ASSERT_TRUE(segment.is_ok()) << segment.status().to_string();
  EXPECT_TRUE((*segment)->device_view().empty());
  std::vector<std::byte> space(kSlotBytes);
  ASSERT_TRUE((*lane)->submit(*segment, {1, 0, space, {}}).is_ok());
  Completion completion;
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  while ((*lane)->poll({&completion, 1}) == 0 && Clock::now() < deadline) {
    pollfd ready{(*lane)->event_fd(), POLLIN, 0};
    ::poll(&ready, 1, 100);
  }
  EXPECT_TRUE(completion.status.is_ok()) << completion.status.to_string();
  EXPECT_EQ(test::first_difference(space, 3), kSlotBytes);
  EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
}

TEST(CudaIpcTransport, IsNotViableWithoutADevice) {
  EXPECT_TRUE(CudaIpcTransport(std::make_shared<driver::FakeCuda>()).viable());
  const auto none = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 0});
  EXPECT_EQ(CudaIpcTransport(none).viable().code(), Code::kUnavailable);
}

}  // namespace
}  // namespace weightcast::transport
