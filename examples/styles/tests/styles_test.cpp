// Each style runs to its end: it learns, and every version that its worker served has the trainer's
// bits (the programs compare). STYLE_NAME in the environment names a style's program.
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

namespace {

class StyleTest : public testing::TestWithParam<std::string> {};

TEST_P(StyleTest, LearnsAndServesTheTrainersBits) {
  std::string key = "STYLE_" + GetParam();
  std::transform(key.begin(), key.end(), key.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  const char* const program = getenv(key.c_str());
  ASSERT_NE(program, nullptr) << key << " must name the program; Meson's test sets it";
  std::string directory = testing::TempDir() + "style_XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  // A job of its own; busy cores may be slow to run a copy, and no point is given up.
  const std::string job = std::filesystem::path(directory).filename().string();
  const std::string command = "WEIGHTCAST_DIR='" + directory + "/meet' WEIGHTCAST_JOB='" + job +
                              "' WEIGHTCAST_STALL=20s exec '" + program + "' 2>&1";

  FILE* const pipe = popen(command.c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  std::array<char, 4096> some{};
  while (const std::size_t got = std::fread(some.data(), 1, some.size(), pipe))
    output.append(some.data(), got);
  const int status = pclose(pipe);
  std::filesystem::remove_all(directory);

  EXPECT_EQ(status, 0) << output;
  EXPECT_NE(output.find(GetParam() + ": score "), std::string::npos) << output;
  EXPECT_NE(output.find(" 0 torn\n"), std::string::npos) << output;
}

INSTANTIATE_TEST_SUITE_P(All, StyleTest,
                         testing::Values("value_class", "factory", "muzero", "actor_critic"),
                         [](const auto& one) { return one.param; });

}  // namespace
