#include <weightcast/version.hpp>

#include <regex>
#include <string>

#include <gtest/gtest.h>

namespace {

TEST(VersionTest, IsThreeNumbers) {
  const std::string version = weightcast::library_version();

  EXPECT_TRUE(std::regex_match(version, std::regex(R"(\d+\.\d+\.\d+)"))) << version;
}

}  // namespace
