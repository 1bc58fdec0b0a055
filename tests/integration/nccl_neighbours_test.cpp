// Engines that share a GPU: one of them takes versions off the wire, and the others have them from it.
#include "base/failpoint.hpp"
#include "integration/nccl_job.hpp"
#include "support/shm_fixture.hpp"

namespace weightcast {
namespace {

using namespace test;

class NcclNeighbours : public NcclJob {
 protected:
  void expect_all_over_nccl() {
    for (const auto& engine : engines) {
      const SubscriberStatus status = engine->status();
      EXPECT_EQ(status.transport, "nccl") << status.transport_reason;
      EXPECT_EQ(status.failed, 0u) << status.last_failure;
    }
  }
  std::size_t boards() const {
    const auto names = shm_objects(job);
    return static_cast<std::size_t>(std::count_if(names.begin(), names.end(), [](const auto& name) {
      return name.ends_with(".board");
    }));
  }
};

struct Gathering {
  const char* name;
  std::uint32_t ranks;
  int gpus;
  int engines_each;
  Mode mode;
};

void PrintTo(const Gathering& one, std::ostream* out) { *out << one.name; }

class EachGathering : public NcclNeighbours, public ::testing::WithParamInterface<Gathering> {};

TEST_P(EachGathering, OneEngineOfAGpuIsInACommunicatorAndAllServe) {
  const Gathering& shape = GetParam();
  const int ranks = static_cast<int>(shape.ranks);
  open_devices(ranks + shape.gpus);
  train(shape.ranks, shape.mode, Staging::kDevice);
  for (int gpu = 0; gpu < shape.gpus; ++gpu) add_engines_on(ranks + gpu, shape.engines_each);
  ASSERT_TRUE(publish_until([&] {
    return publishers[0]->status().receivers.size() == engines.size();
  }));
  for (int i = 0; i < 4; ++i) bring();
  const auto joined = nccl->calls("init_rank");
  const driver::FakeCounts held = cuda->held();
  for (int i = 0; i < 4; ++i) bring();
  expect_all_over_nccl();
  EXPECT_EQ(cuda->held(), held);
  if (shape.mode == Mode::kBroadcast) {
    EXPECT_EQ(nccl->calls("init_rank"), joined) << "leaders stay";
    EXPECT_GE(cuda->held().opened, static_cast<std::size_t>(shape.gpus));
    for (int gpu = 0; gpu < shape.gpus; ++gpu) {
      EXPECT_EQ(nccl->communicators_of(ranks + gpu), shape.ranks);
    }
  }
  EXPECT_EQ(boards(), engines.size());
}

INSTANTIATE_TEST_SUITE_P(All, EachGathering,
                         ::testing::Values(Gathering{"Two", 1, 1, 2, Mode::kBroadcast},
                                           Gathering{"FourFromTwo", 2, 1, 4, Mode::kBroadcast},
                                           Gathering{"TwoOnEachOfTwo", 1, 2, 2, Mode::kBroadcast},
                                           Gathering{"TwoOnEachOfTwoFromThree", 3, 2, 2, Mode::kBroadcast},
                                           Gathering{"FourEach", 1, 1, 4, Mode::kP2p},
                                           Gathering{"TwoOnEachOfTwoFromTwoEach", 2, 2, 2, Mode::kP2p}),
                         [](const auto& given) { return std::string(given.param.name); });

TEST_F(NcclNeighbours, WhenTheLeaderGoesAnotherLeads) {
  open_devices(2);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines_on(1, 3);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 3; }));
  for (int i = 0; i < 2; ++i) bring();
  engines.erase(engines.begin());
  for (int i = 0; i < 3; ++i) bring();
  expect_all_over_nccl();
  EXPECT_EQ(boards(), 2u);
}

TEST_F(NcclNeighbours, WhoComesLaterFollowsTheLeaderThatIsThere) {
  open_devices(2);
  train(1, Mode::kBroadcast, Staging::kDevice);
  SubscriberOptions options = engine_options(1);
  options.name = "b";
  add_engine(options);
  for (int i = 0; i < 2; ++i) bring();
  const auto joined = nccl->calls("init_rank");
  options.name = "a";
  add_engine(options);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 2; }));
  for (int i = 0; i < 3; ++i) bring();
  expect_all_over_nccl();
  // At most its own way in, when it came between two rounds.
  EXPECT_LE(nccl->calls("init_rank"), joined + 4);
  EXPECT_LE(nccl->communicators_of(1), 2u);
  const auto settled = nccl->calls("init_rank");
  for (int i = 0; i < 3; ++i) bring();
  EXPECT_EQ(nccl->calls("init_rank"), settled);
}

TEST_F(NcclNeighbours, WhereMemoryCannotBeSharedAnotherTransportServes) {
  open_devices(2);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines_on(1, 2);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 2; }));
  const LogLines lines;
  for (int i = 0; i < 6; ++i) {
    cuda->fail("open_memory", Status(Code::kUnavailable, "injected"));
    bring();
  }
  EXPECT_TRUE(lines.contain("event=nccl_fell_back"));
}

}  // namespace
}  // namespace weightcast
