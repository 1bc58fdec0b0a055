#include "stream/transfer.hpp"

#include <gtest/gtest.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>

#include "contract/memory_transport.hpp"

namespace weightcast::stream {
namespace {

using namespace std::chrono_literals;

const Version kVersion{{1, 2}, 3};
constexpr std::size_t kBytes = 4096;

/// Lanes of memory, each with one segment.
class TransferTest : public ::testing::Test {
 protected:
  SegmentTransfer transfer_of(std::size_t index, std::size_t buckets) {
    const std::string object = "object-" + std::to_string(index);
    const auto generation = board->put(object, kVersion, kBytes * buckets, [&](auto bytes) {
      std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(index + 1));
    });
    transport::MemoryTransport transport(board);
    auto lane = transport.open_lane({1, 4});
    lanes.push_back(std::move(*lane));
    SegmentTransfer transfer;
    transfer.lane = lanes.back().get();
    transfer.segment =
        *transfer.lane->acquire({object, kVersion, generation, kBytes * buckets});
    destinations.emplace_back(kBytes * buckets);
    for (std::size_t i = 0; i < buckets; ++i) {
      transport::Bucket bucket;
      bucket.offset = i * kBytes;
      bucket.destination = std::span(destinations.back()).subspan(i * kBytes, kBytes);
      transfer.buckets.push_back(bucket);
    }
    return transfer;
  }

  std::shared_ptr<transport::MemoryBoard> board = std::make_shared<transport::MemoryBoard>();
  std::vector<std::unique_ptr<transport::Lane>> lanes;
  std::deque<std::vector<std::byte>> destinations;
};

TEST_F(TransferTest, MovesEveryBucketOfEveryLaneWithLittleCredit) {
  std::vector<SegmentTransfer> transfers;
  for (std::size_t i = 0; i < 3; ++i) transfers.push_back(transfer_of(i, 5 + 20 * i));

  const Status status = move_buckets(std::move(transfers), 2, [] { return false; });

  ASSERT_TRUE(status) << status.to_string();
  for (std::size_t i = 0; i < 3; ++i) {
    for (const std::byte byte : destinations[i]) ASSERT_EQ(byte, static_cast<std::byte>(i + 1));
  }
}

TEST_F(TransferTest, AllLanesAreUnderWayAtTheSameTime) {
  // Each lane's first bucket waits for the others' first: one lane after the other would not end.
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t arrived = 0;
  bool together = true;
  std::vector<SegmentTransfer> transfers;
  for (std::size_t i = 0; i < 3; ++i) {
    transfers.push_back(transfer_of(i, 2));
    transfers.back().buckets[0].place = [&](std::size_t, std::span<const std::byte>) {
      std::unique_lock lock(mutex);
      ++arrived;
      changed.notify_all();
      together = changed.wait_for(lock, 30s, [&] { return arrived == 3; }) && together;
    };
  }

  EXPECT_TRUE(move_buckets(std::move(transfers), 1, [] { return false; }));

  EXPECT_TRUE(together);
}

TEST_F(TransferTest, TransfersOfOneLaneGoOneAfterTheOther) {
  std::vector<SegmentTransfer> transfers;
  transfers.push_back(transfer_of(0, 4));
  transfers.push_back(transfer_of(1, 4));
  transfers[1].lane = transfers[0].lane;
  std::vector<std::size_t> order;
  for (std::size_t t = 0; t < 2; ++t) {
    for (auto& bucket : transfers[t].buckets) {
      bucket.place = [&order, t](std::size_t, std::span<const std::byte>) { order.push_back(t); };
    }
  }

  EXPECT_TRUE(move_buckets(std::move(transfers), 3, [] { return false; }));

  EXPECT_EQ(order, (std::vector<std::size_t>{0, 0, 0, 0, 1, 1, 1, 1}));
}

TEST_F(TransferTest, OneLanesFailureEndsTheOthersPart) {
  std::vector<SegmentTransfer> transfers;
  transfers.push_back(transfer_of(0, 1));
  transfers.push_back(transfer_of(1, 10000));
  transfers[0].buckets[0].offset = 1 << 30;  // outside
  std::size_t placed = 0;
  for (auto& bucket : transfers[1].buckets) {
    bucket.place = [&](std::size_t, std::span<const std::byte>) { ++placed; };
  }

  const Status status = move_buckets(std::move(transfers), 1, [] { return false; });

  EXPECT_EQ(status.code(), Code::kInvalid) << status.to_string();
  EXPECT_LT(placed, 10000u);
}

TEST_F(TransferTest, ACancelledOneHasNothingUnderWayAnyMore) {
  std::vector<SegmentTransfer> transfers;
  transfers.push_back(transfer_of(0, 1000));
  std::size_t placed = 0;
  for (auto& bucket : transfers[0].buckets) {
    bucket.place = [&](std::size_t, std::span<const std::byte>) { ++placed; };
  }
  int looks = 0;

  const Status status = move_buckets(std::move(transfers), 4, [&] { return ++looks > 3; });

  EXPECT_EQ(status.code(), Code::kCancelled);
  EXPECT_LT(placed, 1000u);
  transport::Completion completion;
  EXPECT_EQ(lanes[0]->poll({&completion, 1}), 0u);
}

/// A lane to a peer that does not answer: only abort() ends its buckets.
class SilentLane final : public transport::Lane {
 public:
  SilentLane() : event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~SilentLane() override { ::close(event); }
  Result<std::shared_ptr<transport::Segment>> acquire(const transport::SegmentAddress&) override {
    return Status(Code::kNotFound, "nothing here");
  }
  Status submit(const std::shared_ptr<transport::Segment>&, transport::Bucket bucket) override {
    open.push_back(bucket.id);
    return Status::ok();
  }
  std::size_t poll(std::span<transport::Completion> out) override {
    std::size_t count = 0;
    for (; aborted && !open.empty() && count < out.size(); ++count) {
      out[count] = {open.back(), Status(Code::kCancelled, "aborted")};
      open.pop_back();
    }
    return count;
  }
  int event_fd() const noexcept override { return event; }
  Status close(Deadline) override { return Status::ok(); }
  void abort() noexcept override { aborted = true; }

  const int event;
  std::vector<std::uint64_t> open;
  bool aborted = false;
};

TEST(Transfer, ALaneThatWaitsForAPeerIsAbortedWhenItIsGivenUp) {
  SilentLane lane;
  std::vector<SegmentTransfer> transfers(1);
  transfers[0].lane = &lane;
  transfers[0].buckets.resize(10);
  transfers[0].awaits_peer = true;
  int looks = 0;

  const Status status = move_buckets(std::move(transfers), 4, [&] { return ++looks > 1; });

  EXPECT_EQ(status.code(), Code::kCancelled);
  EXPECT_TRUE(lane.aborted);
  EXPECT_TRUE(lane.open.empty()) << "buckets are still under way";
}

}  // namespace
}  // namespace weightcast::stream
