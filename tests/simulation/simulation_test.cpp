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
constexpr std::uint64_t kFewestCommits = 4;  ///< in one seed

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

/// A protocol that does nothing breaks no rule: each thing must have happened often enough. The
/// floors are about half of what 2000 seeds show, for each 100 seeds.
void expect_floors(const Coverage& all, std::uint64_t seeds) {
  const std::uint64_t hundreds = seeds / 100;
  const auto floor = [&](const char* what, std::uint64_t count, std::uint64_t each_hundred) {
    EXPECT_GE(count, each_hundred * hundreds) << what;
  };
  floor("commits", all.commits, 2500);
  floor("leases", all.leases, 30000);
  floor("lease checks while the trainer was two versions further", all.served_over_steps, 30000);
  floor("receivers evicted", all.receivers_evicted, 80);
  floor("sources evicted", all.sources_evicted, 15);
  floor("rejoins", all.rejoins, 30);
  floor("catch-ups", all.catch_ups, 200);
  floor("demotions", all.demotions, 70);
  floor("void grants", all.grants_void, 200);
  floor("new runs", all.new_runs, 80);
  floor("verdicts", all.verdicts, 300);
  floor("verdicts about a void point", all.void_verdicts, 5);
  floor("captures given up at the stall", all.stalls, 10);
  floor("slots refused to a writer", all.locked_slots, 10000);
  floor("slots refused to a reader", all.stale_slots, 3);
  floor("corrupted words found", all.corruptions_found, 90);
  floor("kills", all.kills, 120);
  floor("leaves", all.leaves, 15);
  floor("stops", all.stops, 120);
  floor("partitions", all.partitions, 80);
  floor("switches in place that waited for leases", all.drained, 900);
  floor("versions that did not come whole in place", all.dirty_failures, 25);
  floor("leases refused while a version came in place", all.refused_dirty, 1800);
  floor("shares read over the network", all.network_reads, 3500);
  floor("holders that were not reached", all.network_failures, 3);
  floor("captures announced while they ran", all.announced, 2000);
  floor("words read ahead of the seal", all.read_ahead, 8000);
  floor("versions read from another engine", all.relayed, 80);
  // Too rare for each hundred.
  EXPECT_GE(all.rounds_aborted, seeds / 200);
  EXPECT_GE(all.superseded, seeds / 400);
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
    EXPECT_GE(world.truth.commits(), kFewestCommits) << "seed " << seed;
    fewest = std::min(fewest, world.truth.commits());
    world.truth.coverage.events = world.events.executed();
    all.add(world.take_coverage());
  }
  std::cout << "seeds " << first << ".." << last << ": " << all.text()
            << " fewest_commits=" << fewest << std::endl;
  if (alone == 0 && failures == 0) expect_floors(all, seeds);
}

TEST(Simulation, ASeedAlwaysMeansTheSame) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    World once(scenario_of(seed));
    World again(scenario_of(seed), true);

    once.play();
    again.play();

    EXPECT_EQ(once.hash(), again.hash()) << "seed " << seed;
    EXPECT_EQ(once.events.executed(), again.events.executed()) << "seed " << seed;
  }
}

TEST(Simulation, SeedsDiffer) {
  World one(scenario_of(1));
  World two(scenario_of(2));

  one.play();
  two.play();

  EXPECT_NE(one.hash(), two.hash());
}

}  // namespace
}  // namespace weightcast::simulation
