#include "unit/nccl_fixture.hpp"

namespace weightcast::transport {
namespace {

class NcclGpuTest : public NcclParty {};

TEST_F(NcclGpuTest, MemoryComesFromCudaWhereNcclRefuses) {
  options.buckets = 2;
  cuda = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2});
  nccl = std::make_shared<driver::FakeNccl>(cuda);
  nccl->fail("mem_alloc", Status(Code::kExhausted, "wanted"));
  auto gpu = NcclGpu::open(nccl, cuda, 0, options);
  ASSERT_TRUE(gpu);
  EXPECT_EQ(nccl->held().memory, 0u);
  EXPECT_EQ(cuda->held().allocations, 1u);
}

TEST_F(NcclGpuTest, OnlyBucketsThatAreNotRegisteredAreForOtherProcesses) {
  for (const bool registers : {false, true}) {
    options.registers = registers;
    cuda = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2});
    nccl = std::make_shared<driver::FakeNccl>(cuda);
    auto gpu = NcclGpu::open(nccl, cuda, 0, options);
    ASSERT_TRUE(gpu);
    EXPECT_EQ((*gpu)->ring().exported().is_ok(), !registers);
    EXPECT_EQ(nccl->held().memory, registers ? 1u : 0u);
  }
}

TEST_F(NcclGpuTest, OpeningFailsWholeWhereSomethingIsMissing) {
  for (const char* call : {"create_stream", "create_event"}) {
    for (std::uint64_t nth = 1; nth <= 2; ++nth) {
      cuda = std::make_shared<driver::FakeCuda>(driver::FakeOptions{.devices = 2});
      nccl = std::make_shared<driver::FakeNccl>(cuda);
      cuda->fail(call, Status(Code::kExhausted, "wanted"), nth);
      EXPECT_EQ(NcclGpu::open(nccl, cuda, 0, options).status().message(), "wanted");
      EXPECT_EQ(cuda->held(), driver::FakeCounts{});
    }
  }
  cuda = std::make_shared<driver::FakeCuda>(
      driver::FakeOptions{.devices = 1, .device_bytes = kBucketBytes + 1});
  nccl = std::make_shared<driver::FakeNccl>(cuda);
  const auto gpu = NcclGpu::open(nccl, cuda, 0, options);
  EXPECT_EQ(gpu.status().code(), Code::kExhausted);
  EXPECT_NE(gpu.status().message().find("2 buckets of 8192 bytes"), std::string::npos)
      << gpu.status().message();
}

TEST_F(NcclGpuTest, IsInNoMoreCommunicatorsThanItMay) {
  options.max_communicators = 2;
  open(1, 1);
  ASSERT_TRUE(join(1, "first"));
  ASSERT_TRUE(join(1, "second"));
  const auto id = *nccl->unique_id();
  const Status refused = members[0].gpu->join("third", {id, 0, 2, 1}, now);
  EXPECT_EQ(refused.code(), Code::kExhausted);
  ASSERT_TRUE(until([&] { return all_ready("first") && all_ready("second"); }));
  for (Member& member : members) member.gpu->leave("first", now);
  ASSERT_TRUE(until([&] { return nccl->communicators_of(0) == 1 && nccl->communicators_of(1) == 1; }));
  ASSERT_TRUE(members[0].gpu->join("third", {id, 0, 2, 1}, now));
  ASSERT_TRUE(members[1].gpu->join("third", {id, 1, 2, 1}, now));
  ASSERT_TRUE(until([&] { return all_ready("third"); }));
  EXPECT_EQ(nccl->calls("abort"), 0u);
}

TEST_F(NcclGpuTest, AnOlderGenerationIsRefusedAndANewerOneTakesThePlace) {
  open(1, 1);
  ASSERT_TRUE(join(5));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  const auto id = *nccl->unique_id();
  EXPECT_EQ(members[0].gpu->join("all", {id, 0, 2, 5}, now).code(), Code::kStale);
  EXPECT_EQ(members[0].gpu->join("all", {id, 0, 2, 4}, now).code(), Code::kStale);
  EXPECT_TRUE(all_ready());
  ASSERT_TRUE(members[0].gpu->join("all", {id, 0, 2, 6}, now));
  ASSERT_TRUE(members[1].gpu->join("all", {id, 1, 2, 6}, now));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  EXPECT_EQ(members[0].gpu->find("all")->generation(), 6u);
}

TEST_F(NcclGpuTest, ARankThatNeverComesEndsTheJoiningOfTheOthers) {
  open(1, 2);
  const auto id = *nccl->unique_id();
  ASSERT_TRUE(members[0].gpu->join("all", {id, 0, 3, 1}, now));
  ASSERT_TRUE(members[1].gpu->join("all", {id, 1, 3, 1}, now));
  const auto since = now;
  ASSERT_TRUE(until([&] {
    return members[0].gpu->find("all") == nullptr && members[1].gpu->find("all") == nullptr;
  }));
  EXPECT_LE(now - since, options.join + std::chrono::seconds(1));
  ASSERT_TRUE(join(2));
  ASSERT_TRUE(until([&] { return all_ready(); }));
}

TEST_F(NcclGpuTest, TwoRanksOfOneGpuFailAtOnce) {
  open(1, 1);
  const auto id = *nccl->unique_id();
  ASSERT_TRUE(members[0].gpu->join("a", {id, 0, 2, 1}, now));
  ASSERT_TRUE(members[0].gpu->join("b", {id, 1, 2, 1}, now));
  ASSERT_TRUE(until([&] { return members[0].gpu->communicators() == 0; }));
}

TEST_F(NcclGpuTest, CloseLeavesInPeaceOrAborts) {
  open(1, 1);
  ASSERT_TRUE(join(1));
  ASSERT_TRUE(until([&] { return all_ready(); }));
  EXPECT_TRUE(members[0].gpu->close(Clock::now() + std::chrono::minutes(1)));
  EXPECT_TRUE(members[1].gpu->close(Clock::now() + std::chrono::minutes(1)));
  EXPECT_EQ(nccl->calls("abort"), 0u);
  ASSERT_TRUE(members[0].gpu->join("alone", {*nccl->unique_id(), 0, 2, 2}, now));
  EXPECT_EQ(members[0].gpu->close(Clock::now() + std::chrono::minutes(1)).code(), Code::kDeadline);
  EXPECT_TRUE(until([&] { return nccl->calls("abort") == 1; }));
}

}  // namespace
}  // namespace weightcast::transport
