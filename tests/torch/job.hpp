// A job of its own for each test: a meeting place that goes with it, and options that name it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

#include <unistd.h>

#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>

namespace weightcast_test {

inline constexpr auto kLong = std::chrono::seconds(60);  // for what comes soon, on a busy machine too

struct Job {
  Job() {
    static std::atomic<int> count{0};
    name = "torch-test-" + std::to_string(getpid()) + "-" + std::to_string(++count);
    std::string pattern = (std::filesystem::temp_directory_path() / "weightcast-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    directory = pattern;
  }
  ~Job() {
    std::error_code ignored;
    std::filesystem::remove_all(directory, ignored);
  }
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;

  weightcast::PublisherOptions publisher() const {
    weightcast::PublisherOptions options;
    options.job = name;
    options.directory = directory;
    // Two busy cores may be slow to run a copy thread; a test does not judge times.
    options.stall = std::chrono::seconds(20);
    options.member_timeout = std::chrono::seconds(20);
    return options;
  }
  weightcast::SubscriberOptions subscriber() const {
    weightcast::SubscriberOptions options;
    options.job = name;
    options.directory = directory;
    options.member_timeout = std::chrono::seconds(20);
    return options;
  }

  std::string name;
  std::string directory;
};

}  // namespace weightcast_test
