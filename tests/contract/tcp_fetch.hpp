// What tests of tcp have in common: a job's keys, a slab, and a receiver that fetches versions.
#pragma once

#include <algorithm>
#include <atomic>
#include <set>

#include "contract/tcp_harness.hpp"

namespace weightcast::transport {

inline constexpr std::size_t kBucket = 32 * 1024;

class TcpTest : public ::testing::Test {
 protected:
  const TestKeys job_keys;
  TestSlab slab;

  TcpServerOptions serving() const {
    TcpServerOptions options;
    options.keys = job_keys.as(keys::Role::kTrainer);
    return options;
  }
  TcpOptions asking() const {
    TcpOptions options;
    options.keys = job_keys.as(keys::Role::kEngine);
    options.retry_after = std::chrono::milliseconds(200);
    return options;
  }

  static std::unique_ptr<Lane> open(TcpTransport& transport, std::uint32_t in_flight = 64) {
    auto lane = transport.open_lane({2, in_flight});
    EXPECT_TRUE(lane.is_ok()) << lane.status().to_string();
    return lane.is_ok() ? std::move(*lane) : nullptr;
  }
};

/// Moves a whole version of the pattern of `number`, bucket by bucket, and counts what was placed.
class Fetch {
 public:
  Fetch(Lane& lane, const SegmentAddress& address)
      : lane_(lane), address_(address), bytes_(address.payload_bytes) {
    auto segment = lane.acquire(address);
    EXPECT_TRUE(segment.is_ok()) << segment.status().to_string();
    if (!segment.is_ok()) return;
    for (std::uint64_t at = 0; at < bytes_.size(); at += kBucket) {
      const auto size = std::min<std::size_t>(kBucket, bytes_.size() - at);
      const auto to = std::span(bytes_).subspan(at, size);
      Bucket bucket{.id = buckets_++, .offset = at, .destination = to, .place = {}};
      bucket.place = [this, to](std::size_t in, std::span<const std::byte> source) {
        std::copy(source.begin(), source.end(), to.begin() + static_cast<std::ptrdiff_t>(in));
        placed_ += source.size();
      };
      EXPECT_TRUE(lane.submit(*segment, std::move(bucket)).is_ok());
    }
  }

  /// Waits for the rest, and expects each byte to have been placed once, as it was published.
  void expect_whole() {
    std::set<std::uint64_t> ids;
    for (const auto& completion : take(lane_, buckets_)) {
      EXPECT_TRUE(completion.status.is_ok()) << completion.status.to_string();
      ids.insert(completion.id);
    }
    EXPECT_EQ(ids.size(), buckets_);
    EXPECT_EQ(placed_, bytes_.size());
    EXPECT_EQ(test::first_difference(bytes_, address_.version.number), bytes_.size());
  }

  /// The one code that all buckets end with; nothing was placed.
  Code expect_refused() {
    std::set<Code> codes;
    for (const auto& completion : take(lane_, buckets_)) codes.insert(completion.status.code());
    EXPECT_EQ(codes.size(), 1U);
    EXPECT_EQ(placed_, 0U);
    return codes.empty() ? Code::kOk : *codes.begin();
  }

 private:
  Lane& lane_;
  const SegmentAddress address_;
  std::vector<std::byte> bytes_;
  std::uint64_t buckets_ = 0;
  std::atomic<std::uint64_t> placed_{0};
};

}  // namespace weightcast::transport
