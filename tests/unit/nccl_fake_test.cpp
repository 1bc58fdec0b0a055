// The fake's own semantics: tests of everything else stand on them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <memory>
#include <vector>

#include "support/fake_nccl.hpp"

namespace weightcast::driver {
namespace {

constexpr std::uint64_t kFakeBytes = 4096;

class NcclFakeTest : public ::testing::Test {
 protected:
  static constexpr int kRanks = 3;

  struct Rank {
    NcclComm comm = nullptr;
    std::byte* memory = nullptr;
    Stream stream = nullptr;
    Event event = nullptr;
  };

  void SetUp() override {
    for (int i = 0; i < kRanks; ++i) {
      Rank& rank = ranks_[i];
      rank.memory = static_cast<std::byte*>(*nccl_.mem_alloc(i, kFakeBytes));
      std::memset(rank.memory, i + 1, kFakeBytes);
      rank.stream = *cuda_->create_stream(i, false);
      rank.event = *cuda_->create_event(i, false);
    }
  }
  void TearDown() override {
    for (int i = 0; i < kRanks; ++i) {
      Rank& rank = ranks_[i];
      if (rank.comm != nullptr) {
        EXPECT_TRUE(nccl_.abort(rank.comm));
      }
      cuda_->destroy_stream(i, rank.stream);
      cuda_->destroy_event(i, rank.event);
      nccl_.mem_free(i, rank.memory);
    }
    EXPECT_EQ(nccl_.held(), FakeNcclCounts{});
    EXPECT_EQ(cuda_->held(), FakeCounts{});
    if (expects_no_violation_) {
      EXPECT_EQ(nccl_.violations(), std::vector<std::string>{});
      EXPECT_EQ(cuda_->violations(), std::vector<std::string>{});
    }
  }

  void join() {
    const auto id = *nccl_.unique_id();
    for (int i = 0; i < kRanks; ++i) ranks_[i].comm = *nccl_.init_rank(i, id, i, kRanks, {});
    for (Rank& rank : ranks_) {
      while (*nccl_.state(rank.comm) == NcclProgress::kUnderWay) {
      }
    }
  }
  bool is_done(int i) {
    auto done = cuda_->done(i, ranks_[i].event);
    EXPECT_TRUE(done);
    return done && *done;
  }
  void broadcast(int i, int root, std::uint64_t bytes = kFakeBytes) {
    Rank& rank = ranks_[i];
    ASSERT_TRUE(nccl_.broadcast(rank.comm, rank.memory, rank.memory, bytes, root, rank.stream));
    ASSERT_TRUE(cuda_->record(i, rank.event, rank.stream));
  }

  std::shared_ptr<FakeCuda> cuda_ = std::make_shared<FakeCuda>(FakeOptions{.devices = kRanks});
  FakeNccl nccl_{cuda_};
  Rank ranks_[kRanks];
  bool expects_no_violation_ = true;
};

TEST_F(NcclFakeTest, NobodyIsInBeforeAllAre) {
  const auto id = *nccl_.unique_id();
  EXPECT_EQ(nccl_.held().unused_ids, 1u);
  ranks_[0].comm = *nccl_.init_rank(0, id, 0, 2, {});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(*nccl_.state(ranks_[0].comm), NcclProgress::kUnderWay);
  ranks_[1].comm = *nccl_.init_rank(1, id, 1, 2, {});
  EXPECT_EQ(*nccl_.state(ranks_[0].comm), NcclProgress::kUnderWay);
  EXPECT_EQ(*nccl_.state(ranks_[0].comm), NcclProgress::kOver);
  EXPECT_EQ(nccl_.held().communicators, 2u);
}

TEST_F(NcclFakeTest, ABroadcastWaitsForTheLastStreamToComeToIt) {
  join();
  broadcast(0, 1);
  broadcast(1, 1);
  cuda_->run_all();
  EXPECT_FALSE(is_done(0));
  cuda_->hold_stream(2, ranks_[2].stream);
  broadcast(2, 1);
  cuda_->run_all();
  EXPECT_FALSE(is_done(1));
  EXPECT_EQ(ranks_[0].memory[0], std::byte{1});
  cuda_->resume_stream(2, ranks_[2].stream);
  cuda_->run_all();
  for (int i = 0; i < kRanks; ++i) {
    EXPECT_TRUE(is_done(i));
    EXPECT_EQ(ranks_[i].memory[kFakeBytes - 1], std::byte{2});
  }
}

TEST_F(NcclFakeTest, SendsMeetTheirReceivesAndAGroupIsOneKernel) {
  join();
  // Each to the next one, in a ring: without groups they would wait for each other for ever.
  std::vector<std::byte*> to;
  for (int i = 0; i < kRanks; ++i) {
    Rank& rank = ranks_[i];
    to.push_back(static_cast<std::byte*>(*cuda_->allocate(i, kFakeBytes)));
    ASSERT_TRUE(nccl_.group_start());
    ASSERT_TRUE(nccl_.send(rank.comm, rank.memory, kFakeBytes, (i + 1) % kRanks, rank.stream));
    ASSERT_TRUE(nccl_.receive(rank.comm, to[i], kFakeBytes, (i + kRanks - 1) % kRanks, rank.stream));
    ASSERT_TRUE(nccl_.group_end());
    ASSERT_TRUE(cuda_->record(i, rank.event, rank.stream));
  }
  cuda_->run_all();
  for (int i = 0; i < kRanks; ++i) {
    EXPECT_TRUE(is_done(i));
    EXPECT_EQ(to[i][0], std::byte((i + kRanks - 1) % kRanks + 1));
    cuda_->free(i, to[i]);
  }
}

TEST_F(NcclFakeTest, CallsInAnotherOrderHangAndAreTold) {
  expects_no_violation_ = false;
  join();
  broadcast(0, 0);
  broadcast(1, 0);
  broadcast(2, 1);
  cuda_->run_all();
  for (int i = 0; i < kRanks; ++i) EXPECT_FALSE(is_done(i));
  ASSERT_EQ(nccl_.violations().size(), 1u);
  EXPECT_NE(nccl_.violations()[0].find("do not match"), std::string::npos);
}

TEST_F(NcclFakeTest, ACallInWhichNotAllMemoryIsRegisteredIsTold) {
  join();
  void* const all = *nccl_.register_memory(ranks_[0].comm, ranks_[0].memory, kFakeBytes);
  broadcast(0, 0);
  broadcast(1, 0);
  broadcast(2, 0);
  cuda_->run_all();
  ASSERT_FALSE(nccl_.violations().empty());
  EXPECT_NE(nccl_.violations()[0].find("is registered"), std::string::npos);
  EXPECT_TRUE(nccl_.deregister_memory(ranks_[0].comm, all));
  expects_no_violation_ = false;
}

TEST_F(NcclFakeTest, ADeadRankIsHeardOfAndAbortLetsTheStreamGo) {
  join();
  broadcast(0, 0);
  broadcast(1, 0);
  cuda_->run_all();
  nccl_.die(2);
  ranks_[2].comm = nullptr;
  Result<NcclProgress> state = nccl_.state(ranks_[0].comm);
  for (int i = 0; i < 3 && state; ++i) state = nccl_.state(ranks_[0].comm);
  EXPECT_EQ(state.status().code(), Code::kUnavailable);
  EXPECT_FALSE(is_done(0));
  ASSERT_TRUE(nccl_.abort(ranks_[0].comm));
  ranks_[0].comm = nullptr;
  cuda_->run_all();
  EXPECT_TRUE(is_done(0));
  EXPECT_FALSE(is_done(1));
}

TEST_F(NcclFakeTest, FinalizeThenDestroyLeavesNothingAndAWrongEndIsTold) {
  join();
  for (int i = 0; i < kRanks; ++i) broadcast(i, 0);
  for (Rank& rank : ranks_) EXPECT_EQ(*nccl_.finalize(rank.comm), NcclProgress::kUnderWay);
  EXPECT_EQ(*nccl_.state(ranks_[0].comm), NcclProgress::kUnderWay);
  cuda_->run_all();
  for (Rank& rank : ranks_) {
    EXPECT_EQ(*nccl_.state(rank.comm), NcclProgress::kOver);
    EXPECT_TRUE(nccl_.destroy(rank.comm));
  }
  EXPECT_EQ(nccl_.held().communicators, 0u);
  EXPECT_EQ(nccl_.destroy(ranks_[0].comm).code(), Code::kInvalid);
  EXPECT_EQ(nccl_.violations().size(), 1u);
  expects_no_violation_ = false;
  for (Rank& rank : ranks_) rank.comm = nullptr;
}

TEST_F(NcclFakeTest, TwoRanksOnOneDeviceAreRefused) {
  const auto id = *nccl_.unique_id();
  ranks_[0].comm = *nccl_.init_rank(0, id, 0, 2, {});
  ranks_[1].comm = *nccl_.init_rank(0, id, 1, 2, {});
  EXPECT_EQ(nccl_.state(ranks_[1].comm).status().code(), Code::kInvalid);
}

TEST_F(NcclFakeTest, ErrorsComeWhereTheyAreWanted) {
  join();
  nccl_.fail("broadcast", Status(Code::kInternal, "wanted"), 2);
  broadcast(0, 0);
  const auto refused =
      nccl_.broadcast(ranks_[1].comm, nullptr, ranks_[1].memory, kFakeBytes, 0, ranks_[1].stream);
  EXPECT_EQ(refused.status().message(), "wanted");
  nccl_.fail("state", Status(Code::kUnavailable, "gone"));
  EXPECT_EQ(nccl_.state(ranks_[1].comm).status().message(), "gone");
  EXPECT_EQ(nccl_.state(ranks_[1].comm).status().message(), "gone");
}

TEST_F(NcclFakeTest, AnAbortCanBeHeldBack) {
  join();
  nccl_.hold_aborts();
  auto aborting = std::async(std::launch::async, [&] { return nccl_.abort(ranks_[0].comm); });
  EXPECT_EQ(nccl_.held().communicators, 3u);
  nccl_.release_aborts();
  EXPECT_TRUE(aborting.get());
  EXPECT_EQ(nccl_.held().communicators, 2u);
  ranks_[0].comm = nullptr;
}

}  // namespace
}  // namespace weightcast::driver
