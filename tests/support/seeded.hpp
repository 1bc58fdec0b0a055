// Random numbers of a test, which says its seed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <random>

namespace weightcast::test {

inline std::mt19937_64 seeded(const char* test) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("%s seed=%llu\n", test, static_cast<unsigned long long>(seed));
  return std::mt19937_64(seed);
}

}  // namespace weightcast::test
