// Engines that share a GPU: one of them takes versions off the wire, and the others have them from it.
#include <stdlib.h>

#include "integration/nccl_job.hpp"
#include "integration/thread_stop.hpp"
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
  const driver::FakeCounts held = cuda->held();
  const auto led = [&] {
    return std::count_if(engines.begin(), engines.end(), [](const auto& engine) {
      return has(engine->status().transport_reason, "out of the ring of another engine");
    });
  };
  if (shape.mode == Mode::kBroadcast) {
    EXPECT_TRUE(settles([&] { return led() == shape.gpus * (shape.engines_each - 1); }))
        << led() << " of " << engines.size() << " are led";
    EXPECT_GE(cuda->held().opened, static_cast<std::size_t>(shape.gpus));
    for (int gpu = 0; gpu < shape.gpus; ++gpu) {
      EXPECT_EQ(nccl->communicators_of(ranks + gpu), shape.ranks);
    }
  } else {
    for (int i = 0; i < 4; ++i) bring();
  }
  expect_all_over_nccl();
  // Other leaders' rings are opened, and no more than those.
  auto now = cuda->held();
  EXPECT_LE(now.opened, engines.size() * engines.size());
  now.opened = held.opened;
  EXPECT_EQ(now, held);
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
  EXPECT_TRUE(settles());
}

TEST_F(NcclNeighbours, OnAnotherHostEnginesOnSeveralGpusShareARank) {
  open_devices(4);
  ::setenv("NCCL_HOSTID", "trainers", 1);
  train(1, Mode::kBroadcast, Staging::kDevice);
  ::setenv("NCCL_HOSTID", "engines", 1);  // which NCCL takes for another host
  add_engines(3);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 3; }));
  const auto in_nccl = [&] {
    std::size_t count = 0;
    for (int gpu = 1; gpu < 4; ++gpu) count += nccl->communicators_of(gpu);
    return count;
  };
  EXPECT_TRUE(settles([&] { return in_nccl() == 1; })) << in_nccl() << " are in NCCL";
  ::unsetenv("NCCL_HOSTID");
  expect_all_over_nccl();
}

TEST_F(NcclNeighbours, GpusWithoutAccessToEachOtherTakeRanksOfTheirOwn) {
  open_devices(4, true, false);
  ::setenv("NCCL_HOSTID", "trainers", 1);
  train(1, Mode::kBroadcast, Staging::kHost);
  ::setenv("NCCL_HOSTID", "engines", 1);
  add_engines(3);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 3; }));
  for (int i = 0; i < 6; ++i) bring();
  ::unsetenv("NCCL_HOSTID");
  for (const auto& engine : engines) EXPECT_EQ(engine->status().transport, "nccl");
  for (int gpu = 1; gpu < 4; ++gpu) EXPECT_EQ(nccl->communicators_of(gpu), 1u) << "GPU " << gpu;
  const auto tried = cuda->calls("open_memory");
  for (int i = 0; i < 3; ++i) bring();
  EXPECT_EQ(cuda->calls("open_memory"), tried);
}

TEST_F(NcclNeighbours, WhereMemoryCannotBeSharedTheOtherTakesAnotherTransport) {
  open_devices(2, false);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines_on(1, 2);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 2; }));
  const LogLines lines;
  const auto is_sent_away = [&](std::size_t engine) {
    return has(engines[engine]->status().transport_reason, "by the same GPU");
  };
  // Where they ask one after the other, each may have had a session of its own.
  bool is_seen = false;
  for (int i = 0; i < 50 && !(is_seen && lines.contain("event=nccl_shares_nothing")); ++i) {
    bring();
    is_seen = is_seen || is_sent_away(0) || is_sent_away(1);
  }
  EXPECT_TRUE(is_seen) << engines[0]->status().transport_reason;
  ASSERT_TRUE(lines.contain("event=nccl_shares_nothing"));
  const auto tried = cuda->calls("open_memory");
  for (int i = 0; i < 3; ++i) bring();
  EXPECT_EQ(cuda->calls("open_memory"), tried) << "what never works is not tried for ever";
}

TEST_F(NcclNeighbours, WhoeverOfThemStopsTheOthersGoOnAndItComesBack) {
  open_devices(2);
  attempt_timeout = 4s;
  train(1, Mode::kBroadcast, Staging::kDevice);
  add_engines_on(1, 3);
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 3; }));
  for (int i = 0; i < 2; ++i) bring();
  for (const std::size_t who : {1u, 2u}) {
    SCOPED_TRACE(who == 1 ? "a leader" : "the second to whom a bucket comes: a neighbour, if it is led");
    const std::uint64_t before = step;
    {
      // A bucket comes to a leader first.
      const ThreadStop stop("engine.copying", who);
      ASSERT_TRUE(publish_until([] { return ThreadStop::holds(); }));
      ASSERT_TRUE(eventually([&] {
        publish_now_and_then();
        std::size_t on = 0;
        for (std::size_t i = 0; i < engines.size(); ++i) on += serves(i, before + 1) ? 1 : 0;
        return on >= 2;
      })) << "the other two";
    }
    bring();
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(boards(), 3u);
}

}  // namespace
}  // namespace weightcast
