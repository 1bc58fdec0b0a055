#include <gtest/gtest.h>

#include "support/fake_cuda.hpp"

namespace weightcast::driver {
namespace {

TEST(DriverLoadTest, GivesTheMachinesOrSaysWhatIsMissing) {
  const auto cuda = load_cuda();
  if (cuda) {
    ASSERT_NE(*cuda, nullptr);
    EXPECT_GT(*(*cuda)->device_count(), 0);
    EXPECT_EQ(*load_cuda(), *cuda);
    return;
  }
  EXPECT_EQ(cuda.status().code(), Code::kUnavailable);
  const std::string& why = cuda.status().message();
  EXPECT_TRUE(why.find("built without CUDA") != why.npos || why.find("driver") != why.npos ||
              why.find("device") != why.npos)
      << why;
}

TEST(DriverLoadTest, AnotherTakesItsPlaceUntilItIsTakenBack) {
  const auto fake = std::make_shared<FakeCuda>();
  set_cuda(fake);
  EXPECT_EQ(*load_cuda(), fake);
  set_cuda(nullptr);
  const auto machine = load_cuda();
  EXPECT_TRUE(!machine || *machine != fake);
  EXPECT_EQ(fake.use_count(), 1);
}

}  // namespace
}  // namespace weightcast::driver
