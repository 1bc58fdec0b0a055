// Versions over NCCL, where all goes well.
#include "integration/nccl_job.hpp"

namespace weightcast {
namespace {

using namespace test;

struct Shape {
  const char* name;
  std::uint32_t ranks;
  int engines;
  Mode mode;
  Staging staging;
};

class EachShape : public NcclJob, public ::testing::WithParamInterface<Shape> {};

TEST_P(EachShape, VersionsReachAllEnginesOverNccl) {
  const Shape& shape = GetParam();
  open_devices(static_cast<int>(shape.ranks) + shape.engines);
  train(shape.ranks, shape.mode, shape.staging);
  add_engines(shape.engines);
  for (int i = 0; i < 4; ++i) bring();
  for (const auto& engine : engines) {
    const SubscriberStatus status = engine->status();
    EXPECT_EQ(status.transport, "nccl");
    EXPECT_EQ(status.failed, 0u) << status.last_failure;
  }
  const driver::FakeCounts held = cuda->held();
  const bool is_settled = settles();
  EXPECT_EQ(cuda->held(), held);
  // The ninth engine that is served alone finds the trainer's GPU in as many as are kept.
  const bool is_full = shape.mode == Mode::kP2p && shape.engines > 8;
  EXPECT_NE(is_settled, is_full);
  const bool is_broadcast = shape.mode == Mode::kBroadcast && shape.engines > 1;
  EXPECT_GT(nccl->calls(is_broadcast ? "broadcast" : "send"), 0u);
}

TEST_F(NcclJob, WhoComesLaterIsInTheNextCommunicator) {
  open_devices(4);
  train(1, Mode::kBroadcast, Staging::kDevice);
  add_engines(2);
  for (int i = 0; i < 3; ++i) bring();
  const LogLines lines;
  add_engine(engine_options(3));
  ASSERT_TRUE(publish_until([&] { return publishers[0]->status().receivers.size() == 3; }));
  EXPECT_TRUE(settles());
  for (int device = 0; device < 4; ++device) EXPECT_LE(nccl->communicators_of(device), 2u);
  for (const auto& engine : engines) EXPECT_EQ(engine->status().failed, 0u);
  EXPECT_FALSE(lines.contain("event=nccl_session_failed"));
  EXPECT_FALSE(lines.contain("event=nccl_transfer_failed"));
}

TEST_F(NcclJob, AnEngineThatGoesBetweenVersionsCostsTheOthersNothing) {
  open_devices(4);
  train(1, Mode::kBroadcast, Staging::kHost);
  add_engines(3);
  for (int i = 0; i < 2; ++i) bring();
  const LogLines lines;
  engines.pop_back();
  for (int i = 0; i < 3; ++i) bring();
  for (const auto& engine : engines) {
    EXPECT_EQ(engine->status().transport, "nccl") << engine->status().transport_reason;
  }
  EXPECT_FALSE(lines.contain("event=nccl_session_failed"));
  EXPECT_FALSE(lines.contain("event=nccl_transfer_failed"));
  EXPECT_FALSE(lines.contain("event=nccl_communicator_failed"));
}

INSTANTIATE_TEST_SUITE_P(
    All, EachShape,
    ::testing::Values(Shape{"OneToOne", 1, 1, Mode::kBroadcast, Staging::kHost},
                      Shape{"OneToOneFromTheDevice", 1, 1, Mode::kBroadcast, Staging::kDevice},
                      Shape{"OneToTwo", 1, 2, Mode::kBroadcast, Staging::kHost},
                      Shape{"OneToFourFromTheDevice", 1, 4, Mode::kBroadcast, Staging::kDevice},
                      Shape{"TwoToTwo", 2, 2, Mode::kBroadcast, Staging::kHost},
                      Shape{"FiveToTwo", 5, 2, Mode::kBroadcast, Staging::kDevice},
                      Shape{"OneToTwoEach", 1, 2, Mode::kP2p, Staging::kDevice},
                      Shape{"OneToFourEach", 1, 4, Mode::kP2p, Staging::kHost},
                      Shape{"OneToNineEach", 1, 9, Mode::kP2p, Staging::kDevice},
                      Shape{"TwoToTwoEach", 2, 2, Mode::kP2p, Staging::kDevice}),
    [](const auto& given) { return std::string(given.param.name); });

}  // namespace
}  // namespace weightcast
