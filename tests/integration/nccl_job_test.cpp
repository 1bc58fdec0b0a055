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
  const auto allocated = nccl->calls("mem_alloc");
  for (int i = 0; i < 4; ++i) bring();
  EXPECT_EQ(cuda->held(), held);
  EXPECT_EQ(nccl->calls("mem_alloc"), allocated);
  const bool is_broadcast = shape.mode == Mode::kBroadcast && shape.engines > 1;
  EXPECT_GT(nccl->calls(is_broadcast ? "broadcast" : "send"), 0u);
}

INSTANTIATE_TEST_SUITE_P(
    All, EachShape,
    ::testing::Values(Shape{"OneToOne", 1, 1, Mode::kBroadcast, Staging::kHost},
                      Shape{"OneToOneFromTheDevice", 1, 1, Mode::kBroadcast, Staging::kDevice},
                      Shape{"OneToTwo", 1, 2, Mode::kBroadcast, Staging::kHost},
                      Shape{"OneToFourFromTheDevice", 1, 4, Mode::kBroadcast, Staging::kDevice},
                      Shape{"TwoToTwo", 2, 2, Mode::kBroadcast, Staging::kHost},
                      Shape{"OneToTwoEach", 1, 2, Mode::kP2p, Staging::kDevice},
                      Shape{"OneToFourEach", 1, 4, Mode::kP2p, Staging::kHost},
                      Shape{"TwoToTwoEach", 2, 2, Mode::kP2p, Staging::kDevice}),
    [](const auto& given) { return std::string(given.param.name); });

}  // namespace
}  // namespace weightcast
