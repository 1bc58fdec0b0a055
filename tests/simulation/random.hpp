// The simulation's only source of chance. Its distributions are written out, so that a seed means
// the same with every standard library.
#pragma once

#include <cstdint>
#include <random>

#include <weightcast/types.hpp>

namespace weightcast::simulation {

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t next() { return engine_(); }
  /// 0 <= x < n; n at least 1. The bias of the remainder does not matter here.
  std::uint64_t below(std::uint64_t n) { return engine_() % n; }
  /// low <= x <= high
  std::uint64_t between(std::uint64_t low, std::uint64_t high) {
    return low + below(high - low + 1);
  }
  Duration between(Duration low, Duration high) {
    return Duration(static_cast<Duration::rep>(between(static_cast<std::uint64_t>(low.count()),
                                                       static_cast<std::uint64_t>(high.count()))));
  }
  bool chance(std::uint64_t permille) { return permille != 0 && below(1000) < permille; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace weightcast::simulation
