#include "simulation/scenario.hpp"

namespace weightcast::simulation {

Scenario scenario_of(std::uint64_t seed) {
  Random random(seed * 0x9e3779b97f4a7c15u + 1);
  Scenario it;
  it.seed = seed;
  it.ranks = static_cast<std::uint32_t>(random.between(1, 3));
  it.engines = static_cast<std::uint32_t>(random.between(1, 4));
  it.joiners = static_cast<std::uint32_t>(random.between(0, 2));
  it.lockstep = random.chance(600);
  it.slots = static_cast<std::uint32_t>(random.between(3, 5));
  if (!it.lockstep) {
    // Where ranks outlive rank 0, no version of the new run can free the slots that engines view
    // of the old one: there must be one more than engines.
    it.slots = it.engines + it.joiners + 1;
  }
  it.words = static_cast<std::uint32_t>(random.between(4, 12));
  it.flip_permille = random.below(3) * 500;
  if (random.chance(500)) {
    it.staged_permille = random.below(3) * 250;
    it.serial_permille = random.below(3) * 250;
    it.flip_permille = it.flip_permille * (1000 - it.staged_permille - it.serial_permille) / 1000;
  }
  it.network_permille = random.below(3) * 500;
  it.p2p = random.chance(400);
  it.max_dirty = static_cast<std::uint32_t>(random.between(1, 2));
  it.fan_out = static_cast<std::uint32_t>(random.between(1, 2));
  if (random.chance(300)) it.max_coalesced = random.below(4);
  it.compare_every = random.chance(500) ? 4 : 0;
  it.min_receivers = static_cast<std::uint32_t>(random.below(2));
  it.publish_every = random.between(1, 2);
  it.step = random.between(15ms, 40ms);
  if (random.chance(400)) it.flush_every = random.between(5, 25);
  it.lease = random.between(10ms, 80ms);

  it.faults_for = random.between(3s, 7s);
  it.drop_permille = random.below(3) * random.below(100);
  it.duplicate_permille = random.below(2) * random.below(200);
  it.slow_permille = random.below(2) * random.below(200);
  it.slow = random.between(20ms, 600ms);
  it.delay = random.between(200us, 5ms);
  it.slow_copy_permille = random.below(2) * random.below(150);
  it.failed_step_permille = random.below(2) * random.below(60);
  if (random.chance(120)) {
    // Only losses: what nobody may be evicted or demoted for.
    it.drop_permille = random.between(50, 250);
    it.slow = random.between(10ms, 100ms);
    it.member_timeout = 2s;
    it.attempt_timeout = 3s;
    return it;
  }
  it.corruption_permille = random.below(2) * random.below(12);
  it.long_lease_permille = random.below(2) * random.below(30);
  if (random.chance(500)) it.partition_every = random.between(400ms, 2s);
  if (random.chance(700)) it.fault_every = random.between(300ms, 2s);
  if (random.chance(500)) it.phase_fault_permille = random.between(2, 25);
  it.takeover = random.chance(300);
  it.lost_for_good = random.chance(300);
  return it;
}

std::string Scenario::text() const {
  std::string out = "seed=" + std::to_string(seed);
  const auto say = [&](const char* name, std::uint64_t value) {
    out += " " + std::string(name) + "=" + std::to_string(value);
  };
  const auto us = [](Duration duration) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
  };
  say("ranks", ranks);
  say("engines", engines);
  say("joiners", joiners);
  say("lockstep", lockstep ? 1 : 0);
  say("slots", slots);
  say("words", words);
  say("flip_permille", flip_permille);
  say("staged_permille", staged_permille);
  say("serial_permille", serial_permille);
  say("network_permille", network_permille);
  say("p2p", p2p ? 1 : 0);
  say("max_dirty", max_dirty);
  say("fan_out", fan_out);
  say("max_coalesced", max_coalesced);
  say("flush_every", flush_every);
  say("step_us", us(step));
  say("lease_us", us(lease));
  say("drop", drop_permille);
  say("duplicate", duplicate_permille);
  say("slow", slow_permille);
  say("slow_us", us(slow));
  say("partition_every_us", us(partition_every));
  say("fault_every_us", us(fault_every));
  say("phase_fault", phase_fault_permille);
  say("slow_copy", slow_copy_permille);
  say("corruption", corruption_permille);
  say("long_lease", long_lease_permille);
  say("takeover", takeover ? 1 : 0);
  say("lost_for_good", lost_for_good ? 1 : 0);
  return out;
}

}  // namespace weightcast::simulation
