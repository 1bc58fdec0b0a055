// A trainer on a device, and engines on the host: everything but the device is real.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <cstring>

#include "driver/cuda.hpp"
#include "integration/device_toy.hpp"
#include "integration/local_job.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast {
namespace {

using namespace test;

class DeviceStaging : public LocalJob {
 protected:
  void SetUp() override { use({.threaded = true}); }
  void use(driver::FakeOptions options) {
    cuda = std::make_shared<driver::FakeCuda>(std::move(options));
    driver::set_cuda(cuda);
  }
  void TearDown() override {
    driver::set_cuda(nullptr);
    EXPECT_EQ(cuda->held(), driver::FakeCounts{});
    EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
    LocalJob::TearDown();
  }

  void follow_from_another_device(bool are_peers);

  std::shared_ptr<driver::FakeCuda> cuda;
};

TEST_F(DeviceStaging, EnginesOfTheHostFollowATrainerOnADevice) {
  ToyPolicy policy(4);
  DeviceToy device(*cuda, policy);
  LogLines log;
  auto opened = Publisher::open(publisher_options(), device.lister());
  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  Publisher publisher = std::move(*opened);
  EXPECT_TRUE(log.contain("event=staging"));
  Subscriber engine = follow("engine");
  for (std::uint64_t step = 1; step <= 8; ++step) {
    ASSERT_TRUE(publisher.fence());
    device.step(step);
    publisher.publish(device.lister());
    if (step % 2 == 0) {
      // The next step's kernels come behind the fence, while the copies may still run.
      ASSERT_TRUE(publisher.fence());
    }

    const auto verdict = publisher.flush(soon(), device.lister());

    ASSERT_TRUE(verdict.is_ok()) << verdict.status().to_string();
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    EXPECT_EQ(policy.difference(lease->image(), step), "");
  }
  const PublisherStatus status = publisher.status();
  EXPECT_EQ(status.captured, 8U);
  EXPECT_GT(status.last_hook.count(), 0);
  EXPECT_EQ(cuda->pageable_copies(), 0U);
}

TEST_F(DeviceStaging, SlotsOfADeviceAreHeadersInSharedMemory) {
  ToyPolicy policy(4);
  DeviceToy device(*cuda, policy);
  PublisherOptions options = publisher_options();
  options.staging = Staging::kDevice;
  options.min_receivers = 0;
  auto opened = Publisher::open(options, device.lister());
  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  Publisher publisher = std::move(*opened);
  for (const std::string& name : shm_objects("." + job + ".")) {
    struct stat info {};
    ASSERT_EQ(::stat(("/dev/shm/" + name).c_str(), &info), 0);
    EXPECT_LE(info.st_size, 4096) << name;
  }

  for (std::uint64_t step = 1; step <= 4; ++step) {
    ASSERT_TRUE(publisher.fence());
    device.step(step);
    publisher.publish(device.lister());
    EXPECT_TRUE(publisher.flush(soon(), device.lister()).is_ok());
  }
  EXPECT_EQ(publisher.status().captured, 4U);
}

/// Engines on device 1 of a trainer on device 0, whole and in slices.
void DeviceStaging::follow_from_another_device(bool are_peers) {
  use({.devices = 2, .threaded = true, .are_peers = are_peers});
  ToyPolicy policy(4);
  DeviceToy device(*cuda, policy);
  PublisherOptions options = publisher_options();
  options.staging = Staging::kDevice;
  auto opened = Publisher::open(options, device.lister());
  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  Publisher publisher = std::move(*opened);
  LogLines log;
  SubscriberOptions whole = subscriber_options("whole");
  whole.device = 1;
  SubscriberOptions slices = whole;
  slices.name = "slices";
  slices.layout = {{"part", {64, 30}, {{"embed.weight", {0, 50}, {64, 30}}}}};
  Subscriber engine = follow(whole);
  Subscriber other = follow(slices);
  for (std::uint64_t step = 1; step <= 4; ++step) {
    ASSERT_TRUE(publisher.fence());
    device.step(step);
    publisher.publish(device.lister());
    const auto verdict = publisher.flush(soon(), device.lister());
    ASSERT_TRUE(verdict.is_ok()) << verdict.status().to_string();
    const auto lease = engine.acquire(soon());
    ASSERT_TRUE(lease.is_ok()) << lease.status().to_string();
    ASSERT_EQ(policy.difference(lease->image(), step), "");
    const auto part = other.acquire(soon());
    ASSERT_TRUE(part.is_ok()) << part.status().to_string();
    const auto* bytes = static_cast<const std::byte*>(part->image().find("part")->data);
    for (std::size_t at = 0; at < 64 * 30 * 4; ++at) {
      ASSERT_EQ(bytes[at],
                ToyPolicy::expected(0, (at / 120 * 128 + 50) * 4 + at % 120, step));
    }
  }
  EXPECT_EQ(engine.status().transport, "cuda_ipc");
  EXPECT_EQ(log.contain("event=no_peer_access"), !are_peers);
}

TEST_F(DeviceStaging, EnginesOfAnotherDeviceReadItsSlots) { follow_from_another_device(true); }

TEST_F(DeviceStaging, EnginesOfADeviceWithoutAccessToThoseHaveThemThroughTheHost) {
  follow_from_another_device(false);
}

TEST_F(DeviceStaging, WithoutRoomOnTheDeviceSlotsAreOnTheHost) {
  ToyPolicy policy;
  DeviceToy device(*cuda, policy);
  cuda->set_device_bytes(0, (std::uint64_t{1} << 30));
  cuda->fail("allocate", Status(Code::kExhausted, "cudaErrorMemoryAllocation: out of memory"));
  PublisherOptions options = publisher_options();
  options.device_budget = std::uint64_t{1} << 30;
  LogLines log;

  auto opened = Publisher::open(options, device.lister());

  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  EXPECT_TRUE(log.contain("staging=host"));
  EXPECT_TRUE(log.contain("out of memory"));
}

TEST_F(DeviceStaging, WhatCannotBeIsRefusedAtOpen) {
  ToyPolicy policy;
  DeviceToy device(*cuda, policy);
  PublisherOptions options = publisher_options();
  options.staging = Staging::kDevice;
  options.transport = TransportChoice::kTcp;
  expect_refusal(Publisher::open(options, device.lister()).status(), Code::kInvalid,
                 {"staging", "transport", "tcp"});
  options.transport = TransportChoice::kAuto;
  expect_refusal(Publisher::open(options, policy.lister()).status(), Code::kInvalid,
                 {"staging", "host memory"});
  const auto lies = [&](TensorList& list) {
    const Status status = policy.lister()(list);
    for (TensorView& tensor : list.tensors) tensor.device = 0;
    return status;
  };
  expect_refusal(Publisher::open(options, lies).status(), Code::kInvalid,
                 {"embed.weight", "device 0", "the host's"});
}

TEST_F(DeviceStaging, ALostDeviceLeavesTheTrainerAlone) {
  ToyPolicy policy;
  DeviceToy device(*cuda, policy);
  PublisherOptions options = publisher_options();
  options.min_receivers = 0;
  auto opened = Publisher::open(options, device.lister());
  ASSERT_TRUE(opened.is_ok()) << opened.status().to_string();
  Publisher publisher = std::move(*opened);
  publisher.publish(device.lister());
  ASSERT_TRUE(publisher.flush(soon(), device.lister()).is_ok());

  cuda->lose(0);

  EXPECT_TRUE(eventually([&] {
    publisher.publish(device.lister());
    EXPECT_TRUE(publisher.fence());
    return publisher.status().voided >= 2;
  }));
}

}  // namespace
}  // namespace weightcast
