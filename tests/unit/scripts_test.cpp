// The tests of scripts/lib that are written in Python, each file a case.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>
#include <utility>

namespace {

/// What the command printed, and its wait status.
std::pair<std::string, int> run(const std::string& command) {
  std::string output;
  FILE* const pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {"cannot start it", -1};
  std::array<char, 4096> some{};
  while (const std::size_t got = std::fread(some.data(), 1, some.size(), pipe)) {
    output.append(some.data(), got);
  }
  return {output, ::pclose(pipe)};
}

void expect_ok(const std::string& file) {
  const auto [output, status] = run("'" WEIGHTCAST_TEST_PYTHON "' '" WEIGHTCAST_SOURCE_ROOT
                                    "/tests/scripts/" + file + "'");
  EXPECT_EQ(status, 0) << output;
  // "OK (skipped=1)" where a case says why it needs what is not here.
  EXPECT_NE(output.find("\nOK"), std::string::npos) << output;
}

TEST(ScriptsTest, TraceReport) { expect_ok("trace_report_test.py"); }

TEST(ScriptsTest, BenchCompare) { expect_ok("bench_compare_test.py"); }

TEST(ScriptsTest, BenchPlots) { expect_ok("bench_plots_test.py"); }

TEST(ScriptsTest, StyleLines) { expect_ok("style_lines_test.py"); }

TEST(ScriptsTest, Gpu) { expect_ok("gpu_scripts_test.py"); }

}  // namespace
