#include <gtest/gtest.h>

#include "driver/nccl_library.hpp"
#include "support/fake_nccl.hpp"

namespace weightcast::driver {
namespace {

std::string built(const char* name) {
  return std::string(WEIGHTCAST_TEST_LIBRARIES) + "/lib" + name + ".so";
}

TEST(NcclLibraryTest, GivesTheMachinesOrSaysWhatIsMissing) {
  const auto nccl = load_nccl();
  if (nccl) {
    EXPECT_GE((*nccl)->version(), kOldestNccl);
    EXPECT_EQ(*load_nccl(), *nccl);
    return;
  }
  EXPECT_EQ(nccl.status().code(), Code::kUnavailable);
  EXPECT_NE(nccl.status().message().find("WEIGHTCAST_NCCL_LIBRARY"), std::string::npos)
      << nccl.status().message();
}

TEST(NcclLibraryTest, RefusesWhatIsNoNccl) {
  const auto absent = open_nccl("libweightcast-no-such-library.so");
  EXPECT_EQ(absent.status().code(), Code::kUnavailable);
  EXPECT_NE(absent.status().message().find("libweightcast-no-such-library"), std::string::npos);
  const auto other = open_nccl("libc.so.6");
  EXPECT_EQ(other.status().code(), Code::kUnavailable);
  EXPECT_NE(other.status().message().find("does not say its version"), std::string::npos)
      << other.status().message();
}

TEST(NcclLibraryTest, RefusesOneThatIsTooOldAndOneThatIsNotWhole) {
  const auto old = open_nccl(built("old_nccl"));
  EXPECT_EQ(old.status().code(), Code::kUnavailable);
  EXPECT_NE(old.status().message().find("expected NCCL 21800 or newer"), std::string::npos)
      << old.status().message();
  EXPECT_NE(old.status().message().find("21790"), std::string::npos);
  const auto hollow = open_nccl(built("hollow_nccl"));
  EXPECT_EQ(hollow.status().code(), Code::kUnavailable);
  EXPECT_NE(hollow.status().message().find("lacks ncclGetErrorString"), std::string::npos)
      << hollow.status().message();
}

TEST(NcclLibraryTest, AnotherTakesItsPlaceUntilItIsTakenBack) {
  const auto fake = std::make_shared<FakeNccl>(std::make_shared<FakeCuda>());
  set_nccl(fake);
  EXPECT_EQ(*load_nccl(), fake);
  set_nccl(nullptr);
  EXPECT_EQ(fake.use_count(), 1);
}

}  // namespace
}  // namespace weightcast::driver
