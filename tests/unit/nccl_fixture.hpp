// A party of senders and receivers in one process and one thread, each with a GPU of a FakeCuda and a
// rank of a FakeNccl: it brings them all on in turn, on a clock of its own.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/fake_nccl.hpp"
#include "transport/nccl/bucket_flow.hpp"
#include "transport/nccl/receiver.hpp"
#include "transport/nccl/sender.hpp"

namespace weightcast::transport {

inline constexpr std::uint64_t kBucketBytes = 8192;
inline constexpr std::uint64_t kPayloadBytes = 5 * kBucketBytes + 100;
inline constexpr std::uint32_t kBuckets = 6;

inline std::byte pattern(std::uint64_t at, std::uint64_t seed) {
  return static_cast<std::byte>((at * 31 + (at >> 8) * 7 + seed * 131) & 0xff);
}

class NcclParty : public ::testing::Test {
 protected:
  struct Member {
    int device = 0;
    bool is_sender = false;
    bool is_dead = false;
    std::unique_ptr<NcclGpu> gpu;
    std::byte* slot = nullptr;   ///< a sender's, pinned
    std::byte* image = nullptr;  ///< a receiver's, on its device
    std::unique_ptr<BucketEnd> end;
    std::unique_ptr<BucketFlow> flow;
    std::size_t done = 0;  ///< steps over in all flows so far
  };

  /// The first `senders` devices send.
  void open(int senders, int receivers, driver::FakeNcclOptions how = {}) {
    cuda = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = senders + receivers});
    nccl = std::make_shared<driver::FakeNccl>(cuda, how);
    members.resize(static_cast<std::size_t>(senders + receivers));
    for (int i = 0; i < senders + receivers; ++i) {
      Member& member = members[static_cast<std::size_t>(i)];
      member.device = i;
      member.is_sender = i < senders;
      if (member.is_sender) {
        member.slot = static_cast<std::byte*>(*cuda->allocate_host(kPayloadBytes));
      } else {
        member.image = static_cast<std::byte*>(*cuda->allocate(i, kPayloadBytes));
      }
      auto opened = NcclGpu::open(nccl, cuda, i, options);
      ASSERT_TRUE(opened) << opened.status().to_string();
      member.gpu = std::move(*opened);
    }
  }

  void TearDown() override {
    if (!cuda) return;
    for (Member& member : members) {
      member.flow.reset();
      member.gpu.reset();
      member.end.reset();
      if (member.slot != nullptr) cuda->free_host(member.slot);
      if (member.image != nullptr) cuda->free(member.device, member.image);
    }
    if (expects_leaks) return;
    auto left = nccl->held();
    left.unused_ids = 0;  // where nobody could join by it, NCCL knows no end for one either
    EXPECT_EQ(left, driver::FakeNcclCounts{});
    EXPECT_EQ(cuda->held(), driver::FakeCounts{});
    EXPECT_EQ(nccl->violations(), std::vector<std::string>{});
    EXPECT_EQ(cuda->violations(), std::vector<std::string>{});
  }

  void write_slots(std::uint64_t version) {
    seed = version;
    for (Member& member : members) {
      if (!member.is_sender) continue;
      for (std::uint64_t i = 0; i < kPayloadBytes; ++i) member.slot[i] = pattern(i, version);
    }
  }

  /// Begins to join a group of all who live.
  Status join(std::uint64_t generation, const std::string& group = "all") {
    auto id = nccl->unique_id();
    if (!id) return id.status();
    int rank = 0;
    for (Member* member : living()) {
      const CommPlace place{*id, rank++, static_cast<int>(living().size()), generation};
      if (Status s = member->gpu->join(group, place, now); !s) return s;
    }
    return Status::ok();
  }

  std::vector<Member*> living() {
    std::vector<Member*> all;
    for (Member& member : members) {
      if (!member.is_dead) all.push_back(&member);
    }
    return all;
  }

  static std::uint64_t bytes_of(std::uint32_t bucket) {
    return std::min(kBucketBytes, kPayloadBytes - bucket * kBucketBytes);
  }

  /// Flows of buckets from `first` on, roots going round the senders.
  void begin(std::size_t first = 0, const std::string& group = "all") {
    int senders = 0;
    for (Member* member : living()) senders += member->is_sender ? 1 : 0;
    int rank = 0;
    for (Member* member : living()) {
      member->done = first;
      std::vector<FlowStep> steps;
      for (auto b = static_cast<std::uint32_t>(first); b < kBuckets; ++b) {
        const int root = static_cast<int>(b) % senders;
        FlowStep::Kind kind = FlowStep::Kind::kBroadcastTo;
        if (member->is_sender) {
          kind = rank == root ? FlowStep::Kind::kBroadcastFrom : FlowStep::Kind::kPass;
        }
        steps.push_back({kind, 0, root, b, bytes_of(b)});
      }
      member->end = make_end(*member);
      member->flow = std::make_unique<BucketFlow>(*member->gpu, std::vector<std::string>{group},
                                                  std::move(steps), *member->end, now);
      ++rank;
    }
  }

  std::unique_ptr<BucketEnd> make_end(Member& member) {
    if (member.is_sender) {
      std::vector<NcclBucketBytes> buckets;
      for (std::uint32_t b = 0; b < kBuckets; ++b) {
        buckets.push_back({0, b * kBucketBytes, bytes_of(b)});
      }
      auto made = NcclSender::make(*member.gpu, {{{member.slot, kPayloadBytes}, nullptr}},
                                   std::move(buckets), {});
      EXPECT_TRUE(made);
      return std::move(*made);
    }
    std::vector<NcclDestination> destinations(kBuckets);
    for (std::uint32_t b = 0; b < kBuckets; ++b) {
      std::byte* const to = member.image + b * kBucketBytes;
      destinations[b] = [this, to, &member](std::span<const std::byte> from,
                                            driver::Stream stream) {
        const driver::CopyItem item{to, from.data(), from.size()};
        return cuda->copy(member.device, {&item, 1}, stream);
      };
    }
    return std::make_unique<NcclReceiver>(std::move(destinations), [](std::uint32_t) {});
  }

  void poll_all() {
    now += std::chrono::milliseconds(1);
    cuda->step();
    bool waits = false;
    for (Member* member : living()) {
      if (!member->gpu) {
        waits = true;
        continue;
      }
      if (member->flow) {
        member->flow->poll(now);
        member->done = std::max(member->done, first_ + member->flow->done());
      }
      member->gpu->poll(now);
      waits = waits || !member->gpu->status();
    }
    // Aborts are on threads of their own, which need real time.
    if (waits) ::poll(nullptr, 0, 1);
  }

  /// @return false where it did not come to that in a minute, or a great many turns
  bool until(const std::function<bool()>& condition) {
    const auto patience = Clock::now() + std::chrono::seconds(60);
    for (int i = 0; i < 200'000 && Clock::now() < patience; ++i) {
      if (condition()) return true;
      poll_all();
    }
    return condition();
  }

  bool all_are(BucketFlow::State state) {
    for (Member* member : living()) {
      if (!member->flow || member->flow->poll(now) != state) return false;
    }
    return true;
  }
  bool all_ready(const std::string& group = "all") {
    for (Member* member : living()) {
      const Communicator* const c = member->gpu->find(group);
      if (c == nullptr || c->state() != Communicator::State::kReady) return false;
      if (!member->gpu->status()) return false;
    }
    return true;
  }
  bool none_running() {
    for (Member* member : living()) {
      if (member->flow && member->flow->poll(now) == BucketFlow::State::kRunning) return false;
    }
    return true;
  }

  /// The process of a member is gone.
  void kill(std::size_t index) {
    Member& member = members[index];
    member.is_dead = true;
    nccl->die(member.device);
    member.flow.reset();
  }

  void expect_images() {
    for (Member* member : living()) {
      if (member->is_sender) continue;
      std::uint64_t wrong = 0;
      for (std::uint64_t i = 0; i < kPayloadBytes; ++i) {
        wrong += member->image[i] == pattern(i, seed) ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0u) << "device " << member->device;
    }
  }

  /// What a session does after a failure: all give up, a new communicator of those who live, and on
  /// from the first bucket that somebody lacks.
  void recover(std::uint64_t generation) {
    std::size_t first = kBuckets;
    for (Member* member : living()) {
      if (member->flow) member->flow->cancel({Code::kCancelled, "another one failed"}, now);
      first = std::min(first, member->is_sender ? kBuckets : member->done);
      member->flow.reset();
      member->gpu->fail({"all"}, {Code::kCancelled, "another one failed"}, now);
    }
    ASSERT_TRUE(until([&] {
      for (Member* member : living()) {
        if (!member->gpu->status()) return false;
      }
      return true;
    }));
    ASSERT_TRUE(join(generation));
    ASSERT_TRUE(until([&] { return all_ready(); }));
    first_ = first;
    begin(first);
    ASSERT_TRUE(until([&] { return all_are(BucketFlow::State::kDone); }));
    expect_images();
  }

  NcclOptions options{.bucket_bytes = kBucketBytes, .registers = true};
  std::shared_ptr<driver::FakeCuda> cuda;
  std::shared_ptr<driver::FakeNccl> nccl;
  std::vector<Member> members;
  Clock::time_point now = Clock::now();
  std::uint64_t seed = 0;
  std::size_t first_ = 0;
  bool expects_leaks = false;
};

}  // namespace weightcast::transport
