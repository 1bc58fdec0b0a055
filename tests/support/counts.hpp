// What a process must not leave behind in itself.
#pragma once

#include <cstddef>
#include <filesystem>
#include <iterator>
#include <string>

namespace weightcast::test {

/// This process's open descriptors and threads.
struct Counts {
  std::size_t descriptors = 0;
  std::size_t threads = 0;
  bool operator==(const Counts&) const = default;

  static Counts now() {
    namespace fs = std::filesystem;
    const auto count = [](const char* directory) {
      return static_cast<std::size_t>(
          std::distance(fs::directory_iterator(directory), fs::directory_iterator()));
    };
    return {count("/proc/self/fd"), count("/proc/self/task")};
  }
  std::string to_string() const {
    return std::to_string(descriptors) + " descriptors, " + std::to_string(threads) + " threads";
  }
};

}  // namespace weightcast::test
