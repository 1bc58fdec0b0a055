#include <weightcast/version.hpp>

#include <cstdio>

#include <gtest/gtest.h>

namespace {

TEST(VersionTest, IsThreeNumbers) {
  int major = -1, minor = -1, patch = -1, length = -1;
  const char* version = weightcast::library_version();

  const int read = std::sscanf(version, "%d.%d.%d%n", &major, &minor, &patch, &length);

  ASSERT_EQ(read, 3) << version;
  EXPECT_EQ(version[length], '\0') << version;
}

}  // namespace
