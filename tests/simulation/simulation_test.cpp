// Many worlds, each from a seed: whatever is killed, stopped, lost, late or cut off, the seven rules
// hold. WEIGHTCAST_SIM_SEEDS: how many seeds; WEIGHTCAST_SIM_SEED: one alone.
// WEIGHTCAST_SIM_TRACE: how many of the last events a failure shows.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <string>

#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {

constexpr std::uint64_t kDefaultSeeds = 2000;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 10);
}

std::string report(std::uint64_t seed) {
  const std::size_t kShown = from_environment("WEIGHTCAST_SIM_TRACE", 100);
  World again(scenario_of(seed), true);
  again.play();
  std::string out = "seed " + std::to_string(seed) + " broke rule \"" + again.truth.rule() +
                    "\": " + again.truth.what() + "\n" + again.scenario.text() +
                    "\nreplay: WEIGHTCAST_SIM_SEED=" + std::to_string(seed) +
                    " <build folder>/tests/simulation/simulation_protocol "
                    "--gtest_filter=Simulation.*\nthe last events:\n";
  const auto& lines = again.lines();
  for (std::size_t i = lines.size() > kShown ? lines.size() - kShown : 0; i < lines.size(); ++i) {
    out += lines[i] + "\n";
  }
  return out;
}

TEST(Simulation, RulesHoldForEverySeed) {
  const std::uint64_t alone = from_environment("WEIGHTCAST_SIM_SEED", 0);
  const std::uint64_t seeds = from_environment("WEIGHTCAST_SIM_SEEDS", kDefaultSeeds);
  Coverage all;
  std::uint64_t failures = 0;
  std::uint64_t fewest = ~std::uint64_t{0};
  const std::uint64_t first = alone != 0 ? alone : 1;
  const std::uint64_t last = alone != 0 ? alone : seeds;
  for (std::uint64_t seed = first; seed <= last && failures < 5; ++seed) {
    World world(scenario_of(seed));
    world.play();
    if (world.truth.failed()) {
      ++failures;
      ADD_FAILURE() << report(seed);
      continue;
    }
    fewest = std::min(fewest, world.truth.commits());
    world.truth.coverage.events = world.events.executed();
    all.add(world.take_coverage());
  }
  std::cout << "seeds " << first << ".." << last << ": " << all.text()
            << " fewest_commits=" << fewest << std::endl;
}

}  // namespace
}  // namespace weightcast::simulation
