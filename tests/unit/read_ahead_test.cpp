// A stager on a device reads a version behind its writer, before it is told to stage it.
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstring>

#include <weightcast/log.hpp>

#include "codec/digest.hpp"
#include "staging/object_name.hpp"
#include "subscriber/device_memory.hpp"
#include "subscriber/stager.hpp"
#include "support/fake_cuda.hpp"
#include "support/shm_fixture.hpp"
#include "transport/shm/shm_transport.hpp"

namespace weightcast::subscriber {
namespace {

using driver::FakeCuda;

constexpr std::uint64_t kBucket = 64 << 10;
constexpr std::uint64_t kBuckets = 16;
constexpr std::uint64_t kBytes = kBucket * kBuckets;

/// What the stager tells its subscriber.
class NotingHost : public StagerHost {
 public:
  void happened(StageEvent event) override {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  void serve(std::shared_ptr<Image> image) override { resume(std::move(image)); }
  void pause(std::string) override {}
  void resume(std::shared_ptr<Image> image) override {
    const std::lock_guard lock(mutex_);
    if (image) current = std::move(image);
  }
  std::shared_ptr<Image> withdraw(std::string) override {
    const std::lock_guard lock(mutex_);
    return std::exchange(current, nullptr);
  }
  /// The first event of that kind and operation.
  Status wait_for(StageEvent::Kind kind, std::uint64_t op) {
    std::unique_lock lock(mutex_);
    Status status(Code::kDeadline, "nothing happened");
    changed_.wait_for(lock, std::chrono::seconds(30), [&] {
      for (const StageEvent& event : events_) {
        if (event.kind != kind || event.op != op) continue;
        status = event.status;
        return true;
      }
      return false;
    });
    return status;
  }
  std::shared_ptr<Image> current;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<StageEvent> events_;
};

class ReadAheadTest : public test::ShmTest, public ::testing::WithParamInterface<Activation> {
 protected:
  ReadAheadTest() {
    options.activation = GetParam();
    options.device = 0;
    options.bucket_bytes = kBucket;
    options.copy_threads = 1;
    options.job = job;
    slab = make_slab(kBytes, 3);
    room = std::make_shared<ImageRoom>(job, *DeviceMemory::open(cuda, 0));
    leases = std::make_shared<LeaseBook>(room);
    TransportSet set;
    set.shm = [this]() -> Result<std::shared_ptr<transport::Transport>> {
      return std::shared_ptr<transport::Transport>(std::make_shared<transport::ShmTransport>(
          transport::SlotUse{staging::SlotMapping::kShared, cuda}));
    };
    stager = std::make_unique<Stager>(options, nullptr, room, leases, std::move(set), host);
    stager->start();
  }
  void TearDown() override {
    stager.reset();
    host.current.reset();
    leases.reset();
    room.reset();
    slab.reset();
    EXPECT_EQ(cuda->held(), driver::FakeCounts{});
    EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
    ShmTest::TearDown();
  }

  plan::Manifest manifest_of(std::uint32_t slot, std::uint64_t generation, bool with_digests) {
    plan::Share share;
    share.object = slab->object_name(slot);
    share.generation = generation;
    share.payload_bytes = kBytes;
    plan::ShareEntry entry;
    entry.info = {"t", {}, DType::kU8, {static_cast<std::int64_t>(kBytes)}, false};
    if (with_digests) entry.digest = codec::digest(slab->payload(slot).data(), kBytes, 0);
    share.entries.push_back(std::move(entry));
    return {{std::move(share)}};
  }
  std::uint64_t begin(std::uint32_t slot) {
    EXPECT_TRUE(slab->try_lock(slot));
    return slab->begin_write(slot);
  }
  /// Writes that many of the first buckets, of the pattern of `number`.
  void write(std::uint32_t slot, std::uint64_t number, std::uint64_t buckets) {
    test::fill_pattern(slab->payload(slot).first(buckets * kBucket), number);
    slab->set_written(slot, buckets * kBucket);
  }
  void seal(std::uint32_t slot, std::uint64_t number) {
    slab->seal(slot, version(number), kBytes);
    slab->unlock(slot);
  }
  void ahead(std::uint64_t number, std::uint32_t slot, std::uint64_t generation) {
    stager->perform(protocol::ReadAhead{version(number), manifest_of(slot, generation, false)});
  }
  /// Stages and switches; the operation is the version's number.
  Status take_in(std::uint64_t number, std::uint32_t slot, std::uint64_t generation) {
    stager->perform(protocol::StartStage{number, version(number), manifest_of(slot, generation, true)});
    if (Status status = host.wait_for(StageEvent::Kind::kStaged, number); !status) return status;
    stager->perform(protocol::Switch{number});
    return host.wait_for(StageEvent::Kind::kSwitched, number);
  }
  void take_in_whole(std::uint64_t number, std::uint32_t slot) {
    const auto generation = begin(slot);
    write(slot, number, kBuckets);
    seal(slot, number);
    const Status status = take_in(number, slot, generation);
    ASSERT_TRUE(status) << status.to_string();
    expect_served(number);
  }
  void expect_served(std::uint64_t number) {
    ASSERT_TRUE(host.current);
    EXPECT_EQ(host.current->version(), version(number));
    const auto* at = static_cast<const std::byte*>(host.current->tensors()[0].data);
    EXPECT_EQ(host.current->tensors()[0].device, 0);
    EXPECT_EQ(test::first_difference({at, kBytes}, number), kBytes);
  }
  /// Waits until that many bytes were copied in all, and no more come by themselves.
  bool copied(std::uint64_t bytes) {
    const auto deadline = Clock::now() + std::chrono::seconds(30);
    while (cuda->copied_bytes() < bytes && Clock::now() < deadline) std::this_thread::yield();
    return cuda->copied_bytes() == bytes;
  }
  /// Of one version: from its slot, and in place.
  std::uint64_t in_place() const { return GetParam() == Activation::kStaged ? kBytes : 0; }

  const std::shared_ptr<FakeCuda> cuda =
      std::make_shared<FakeCuda>(driver::FakeOptions{.threaded = true});
  SubscriberOptions options;
  NotingHost host;
  std::unique_ptr<staging::Slab> slab;
  std::shared_ptr<ImageRoom> room;
  std::shared_ptr<LeaseBook> leases;
  std::unique_ptr<Stager> stager;
};

TEST_P(ReadAheadTest, CopiesBehindTheWriterAndOnceOnly) {
  take_in_whole(1, 0);
  std::uint64_t before = cuda->copied_bytes();
  for (std::uint64_t number = 2; number <= 5; ++number) {
    const std::uint32_t slot = number % 3;
    const auto generation = begin(slot);
    write(slot, number, 0);
    ahead(number, slot, generation);
    for (const std::uint64_t buckets : {1, 2, 7, 12}) {
      write(slot, number, buckets);
      ASSERT_TRUE(copied(before + buckets * kBucket)) << buckets << " of version " << number;
    }
    write(slot, number, kBuckets);
    ASSERT_TRUE(copied(before + kBytes));
    seal(slot, number);
    const Status status = take_in(number, slot, generation);
    ASSERT_TRUE(status) << status.to_string();
    expect_served(number);
    before += kBytes + in_place();
    EXPECT_EQ(cuda->copied_bytes(), before) << "something was copied again";
  }
}

TEST_P(ReadAheadTest, AnOrderCutsItShortAndTheRestIsCopied) {
  take_in_whole(1, 0);
  const std::uint64_t before = cuda->copied_bytes();
  const auto generation = begin(1);
  write(1, 2, 5);
  ahead(2, 1, generation);
  ASSERT_TRUE(copied(before + 5 * kBucket));
  test::fill_pattern(slab->payload(1), 2);  // its watermark is late
  seal(1, 2);
  ASSERT_TRUE(take_in(2, 1, generation));
  expect_served(2);
  EXPECT_EQ(cuda->copied_bytes(), before + kBytes + in_place());
}

TEST_P(ReadAheadTest, AnotherGenerationIsReadAnew) {
  take_in_whole(1, 0);
  const std::uint64_t before = cuda->copied_bytes();
  const auto generation = begin(1);
  write(1, 2, 5);
  ahead(2, 1, generation);
  ASSERT_TRUE(copied(before + 5 * kBucket));
  // The point is void: the slot takes another.
  const auto next = slab->begin_write(1);
  write(1, 3, kBuckets);
  seal(1, 3);
  ASSERT_TRUE(take_in(3, 1, next));
  expect_served(3);
  EXPECT_EQ(cuda->copied_bytes(), before + 5 * kBucket + kBytes + in_place());
}

TEST_P(ReadAheadTest, WhatWasReadTooEarlyIsReadAgainOnce) {
  take_in_whole(1, 0);
  const std::uint64_t before = cuda->copied_bytes();
  const auto generation = begin(1);
  write(1, 99, kBuckets);  // a watermark that lies
  ahead(2, 1, generation);
  ASSERT_TRUE(copied(before + kBytes));
  write(1, 2, kBuckets);
  seal(1, 2);
  const Status status = take_in(2, 1, generation);
  ASSERT_TRUE(status) << status.to_string();
  expect_served(2);
  EXPECT_EQ(cuda->copied_bytes(), before + 2 * kBytes + in_place());
}

TEST_P(ReadAheadTest, HintsThatComeToNothingCostNothing) {
  // Before any version is here, of a slot that is not there, and of one that nobody seals.
  ahead(1, 1, 1);
  take_in_whole(1, 0);
  plan::Manifest gone = manifest_of(2, 1, false);
  gone.shares[0].object = staging::owner_prefix(owner(77)) + ".s0";
  stager->perform(protocol::ReadAhead{version(2), gone});
  const auto generation = begin(1);
  write(1, 2, 3);
  const std::uint64_t before = cuda->copied_bytes();
  ahead(2, 1, generation);
  ASSERT_TRUE(copied(before + 3 * kBucket));
  take_in_whole(3, 2);
  slab->unlock(1);
  take_in_whole(4, 0);
}

TEST_P(ReadAheadTest, ErrorsOfTheDeviceAreForgotten) {
  take_in_whole(1, 0);
  std::uint64_t number = 2;
  for (const char* const call : {"copy", "record", "done"}) {
    const auto generation = begin(1);
    write(1, number, kBuckets);
    cuda->fail(call, Status(Code::kInternal, "injected"));
    const auto calls = cuda->calls(call);
    ahead(number, 1, generation);
    const auto deadline = Clock::now() + std::chrono::seconds(30);
    while (cuda->calls(call) == calls && Clock::now() < deadline) std::this_thread::yield();
    seal(1, number);
    const Status status = take_in(number, 1, generation);
    ASSERT_TRUE(status) << call << ": " << status.to_string();
    expect_served(number++);
  }
}

TEST_P(ReadAheadTest, AnImageThatIsStillReadIsLeftAlone) {
  take_in_whole(1, 0);
  take_in_whole(2, 1);
  const std::uint64_t before = cuda->copied_bytes();
  auto held = room->spare_buffer(kBytes, {});
  ASSERT_TRUE(held.is_ok() && *held);
  const auto generation = begin(2);
  write(2, 3, kBuckets);
  ahead(3, 2, generation);
  seal(2, 3);
  stager->perform(protocol::DropStaged{77});
  held = Status(Code::kCancelled, "let go");
  ASSERT_TRUE(take_in(3, 2, generation));
  expect_served(3);
  EXPECT_EQ(cuda->copied_bytes(), before + kBytes + in_place());
}

INSTANTIATE_TEST_SUITE_P(Each, ReadAheadTest,
                         ::testing::Values(Activation::kFlip, Activation::kStaged),
                         [](const auto& given) {
                           return std::string(given.param == Activation::kFlip ? "Flip" : "Staged");
                         });

}  // namespace
}  // namespace weightcast::subscriber
