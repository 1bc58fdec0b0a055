// What tests of shared memory have in common: names of their own, and nothing left behind.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "staging/slab.hpp"
#include "staging/sweep.hpp"

namespace weightcast::test {

/// Objects in /dev/shm whose names contain `part`, sorted.
inline std::vector<std::string> shm_objects(const std::string& part) {
  std::vector<std::string> names;
  if (DIR* dir = ::opendir("/dev/shm")) {
    while (const dirent* entry = ::readdir(dir)) {
      const std::string name = entry->d_name;
      if (name.find(part) != std::string::npos) names.push_back(name);
    }
    ::closedir(dir);
  }
  std::sort(names.begin(), names.end());
  return names;
}

constexpr std::uint64_t kPatternSeed = 0x9e3779b97f4a7c15ULL;

/// A byte that depends on where it lies and on a seed.
inline std::byte pattern(std::uint64_t seed, std::size_t at) {
  return static_cast<std::byte>((seed * kPatternSeed + at * 131 + (at >> 12)) >> 3);
}

// Without a call for each byte: tests are compiled without optimization.

inline void fill_pattern(std::span<std::byte> bytes, std::uint64_t seed) {
  std::byte* const data = bytes.data();
  const std::size_t size = bytes.size();
  const std::uint64_t start = seed * kPatternSeed;
  for (std::size_t i = 0; i < size; ++i) {
    data[i] = static_cast<std::byte>((start + i * 131 + (i >> 12)) >> 3);
  }
}

/// The first byte that is not the pattern's; bytes.size() where all are.
inline std::size_t first_difference(std::span<const std::byte> bytes, std::uint64_t seed,
                                    std::size_t offset = 0) {
  const std::byte* const data = bytes.data();
  const std::size_t size = bytes.size();
  const std::uint64_t start = seed * kPatternSeed;
  for (std::size_t i = 0, at = offset; i < size; ++i, ++at) {
    if (data[i] != static_cast<std::byte>((start + at * 131 + (at >> 12)) >> 3)) return i;
  }
  return size;
}

/// A job's name that nobody else has, so that tests may run side by side.
inline std::string unique_job() {
  static std::atomic<int> count{0};
  return "test-" + std::to_string(::getpid()) + "-" + std::to_string(count++);
}

class ShmTest : public ::testing::Test {
 protected:
  const std::string job = unique_job();
  const weightcast::Run run{1700000000000000, 7};

  staging::ObjectOwner owner(std::uint64_t incarnation = 1) const {
    return {job, "policy", run, 0, incarnation};
  }

  std::unique_ptr<staging::Slab> make_slab(std::uint64_t slot_bytes, std::uint32_t slots = 2,
                                           std::uint64_t incarnation = 1) const {
    auto slab = staging::Slab::create({owner(incarnation), slots, slot_bytes});
    EXPECT_TRUE(slab.is_ok()) << slab.status().to_string();
    return slab.is_ok() ? std::move(*slab) : nullptr;
  }

  Version version(std::uint64_t number) const { return {run, number}; }

  /// Writes and seals the pattern of `number`. @return the generation, 0 where a reader is there
  std::uint64_t publish(staging::Slab& slab, std::uint32_t slot, std::uint64_t number,
                        std::uint64_t bytes) const {
    if (!slab.try_lock(slot)) return 0;
    const auto generation = slab.begin_write(slot);
    fill_pattern(slab.payload(slot).first(bytes), number);
    slab.seal(slot, version(number), bytes);
    slab.unlock(slot);
    return generation;
  }

  std::vector<std::string> objects() const { return shm_objects("." + job + "."); }

  void TearDown() override {
    EXPECT_EQ(objects(), std::vector<std::string>{}) << "left behind in /dev/shm";
    for (const auto& name : objects()) ::unlink(("/dev/shm/" + name).c_str());
  }
};

}  // namespace weightcast::test
