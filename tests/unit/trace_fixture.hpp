// A trace in a folder of the test's own, and what stands in it.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/trace.hpp"
#include "support/private_place.hpp"

namespace weightcast::test {

inline std::string text_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline Clock::time_point at(std::int64_t ns) { return Clock::time_point(std::chrono::nanoseconds(ns)); }

class TraceTest : public testing::Test {
 protected:
  ~TraceTest() override { base::close_trace(); }

  std::string path(const std::string& name = "trace.json") const { return place.path() + "/" + name; }

  void open(const base::TraceLimits& limits = {}) {
    const Status status = base::open_trace(path(), "the test", limits);
    ASSERT_TRUE(status) << status.to_string();
  }
  /// Closes, and reads all of it.
  static nlohmann::json read() {
    const std::string file = base::trace_file();
    base::close_trace();
    return nlohmann::json::parse(text_of(file));
  }
  static std::vector<nlohmann::json> spans(const nlohmann::json& trace) {
    std::vector<nlohmann::json> found;
    for (const nlohmann::json& event : trace) {
      if (event.at("ph") == "X") found.push_back(event);
    }
    return found;
  }
  static nlohmann::json last(const nlohmann::json& trace) { return trace.back().at("args"); }

  PrivatePlace place;
};

}  // namespace weightcast::test
