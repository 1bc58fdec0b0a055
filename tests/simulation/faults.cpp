// The hand of World that kills, stops and cuts off, and that heals everything in the end.
#include <algorithm>

#include "simulation/engine.hpp"
#include "simulation/trainer.hpp"
#include "simulation/world.hpp"

namespace weightcast::simulation {
namespace {
/// Fake time from the end of the faults to the state that rule 7 promises: evictions, the longest
/// back-off of a catch-up (5 s), a launch, and some rounds.
constexpr Duration kRecoveryBound = 12s;
/// How long a process of a former launch may live on after the faults.
constexpr Duration kOldLaunchEnds = 500ms;
}  // namespace

void World::kill(Pid pid) {
  events.after(Duration(0), [this, pid] {
    const auto found = processes_.find(pid);
    if (found == processes_.end()) return;
    trace([&] { return "SIGKILL " + std::to_string(pid) + " " + found->second->name(); });
    ++truth.coverage.kills;
    mix_hash(pid);
    remote.forget(pid);
    processes_.erase(found);
    memory.drop_locks_of(pid);
    after_death_of(pid);
  });
}

void World::end(Pid pid) {
  events.after(Duration(0), [this, pid] {
    Process* process = find(pid);
    if (process == nullptr || process->stopped()) return;
    trace([&] { return "leaves " + std::to_string(pid) + " " + process->name(); });
    ++truth.coverage.leaves;
    process->leave();
    kill(pid);
  });
}

void World::stop(Pid pid) {
  events.after(Duration(0), [this, pid] {
    Process* process = find(pid);
    if (process == nullptr || process->stopped()) return;
    trace([&] { return "SIGSTOP " + std::to_string(pid) + " " + process->name(); });
    ++truth.coverage.stops;
    process->stop();
  });
}

void World::cont(Pid pid) {
  events.after(Duration(0), [this, pid] {
    Process* process = find(pid);
    if (process == nullptr || !process->stopped()) return;
    trace([&] { return "SIGCONT " + std::to_string(pid) + " " + process->name(); });
    process->cont();
  });
}

void World::after_death_of(Pid pid) {
  if (scripted) return;
  for (std::uint32_t i = 0; i < engines_.size(); ++i) {
    if (engines_[i] != pid) continue;
    if (faults_on_ && scenario.lost_for_good && random.chance(400)) {
      lost_engines_[i] = true;
      return;
    }
    events.after(random.between(20ms, 1200ms), [this, i] {
      if (find(engines_[i]) == nullptr) start_engine(i);
    });
    return;
  }
  const auto dead = std::find(ranks_.begin(), ranks_.end(), pid);
  if (dead == ranks_.end() || relaunching_) return;
  const auto rank = static_cast<std::uint32_t>(dead - ranks_.begin());
  if (!scenario.lockstep && !random.chance(300)) {
    events.after(random.between(20ms, 1200ms), [this, rank, launch = launches_] {
      if (relaunching_ || launch != launches_ || find(ranks_[rank]) != nullptr) return;
      start_rank(rank);
    });
    return;
  }
  // torchrun ends the other ranks and starts all of them again.
  relaunching_ = true;
  events.after(random.between(10ms, 300ms), [this] {
    for (const Pid it : ranks_) kill(it);
  });
  events.after(random.between(310ms, 1200ms), [this] {
    relaunching_ = false;
    start_launch();
  });
}

Pid World::random_process() {
  std::vector<Pid> all;
  for (const auto& [pid, process] : processes_) all.push_back(pid);
  return all.empty() ? 0 : all[random.below(all.size())];
}

void World::strike(Pid pid) {
  if (pid == 0 || find(pid) == nullptr) return;
  const std::uint64_t how = random.below(1000);
  if (how < 450) {
    how < 80 ? end(pid) : kill(pid);
    return;
  }
  stop(pid);
  const Duration how_long =
      random.chance(500) ? random.between(1ms, 200ms) : random.between(200ms, 1500ms);
  events.after(how_long, [this, pid] { cont(pid); });
  const bool coordinates = ranks_[0] == pid;
  if (scenario.takeover && coordinates && !relaunching_ && random.chance(500)) {
    // Somebody starts the job anew while the old one only stands still.
    events.after(random.between(1ms, how_long), [this, pid] {
      if (ranks_[0] == pid && faults_on_ && !relaunching_) start_launch();
    });
  }
}

void World::phase(Phase phase, Process& process) {
  if (on_phase) on_phase(phase, process);
  if (scripted || !faults_on_ || !random.chance(scenario.phase_fault_permille)) return;
  strike(random.chance(600) ? process.pid() : random_process());
}

void World::next_fault() {
  if (scenario.fault_every == 0ms) return;
  events.after(random.between(scenario.fault_every / 4, scenario.fault_every * 2), [this] {
    if (!faults_on_) return;
    strike(random_process());
    next_fault();
  });
}

void World::next_partition() {
  if (scenario.partition_every == 0ms) return;
  events.after(random.between(scenario.partition_every / 4, scenario.partition_every * 2), [this] {
    if (!faults_on_) return;
    const Pid one = announced_;
    const Pid other = random_process();
    const Duration how_long = random.between(10ms, 1200ms);
    const std::uint64_t directions = random.between(1, 3);
    ++truth.coverage.partitions;
    if ((directions & 1) != 0) cut(one, other, how_long);
    if ((directions & 2) != 0) cut(other, one, how_long);
    next_partition();
  });
}

void World::cease_faults() {
  faults_on_ = false;
  cuts_.clear();
  trace([&] { return std::string("faults cease"); });
  for (const auto& [pid, process] : processes_) cont(pid);
  events.after(kOldLaunchEnds, [this] {
    for (const Pid pid : old_ranks_) kill(pid);
  });
  if (Trainer* first = rank(0)) {
    if (const protocol::Coordinator* coordinator = first->coordinator()) {
      healed_run_ = coordinator->run();
      healed_commits_ = coordinator->counters().commits;
      healed_published_ = coordinator->published();
    }
  }
}

void World::play() {
  start();
  next_fault();
  next_partition();
  run_until([] { return false; }, scenario.faults_for);
  if (truth.failed()) return;
  cease_faults();
  bool well = false;
  const std::function<void()> look = [&] {
    well = recovered();
    if (!well) events.after(20ms, look);
  };
  look();
  if (!run_until([&] { return well; }, kRecoveryBound) && !truth.failed()) {
    truth.fail("7 liveness", "12 s after the faults ceased not every live engine serves a newer "
                             "version, or the trainer publishes no more:\n" + picture());
  }
  Trainer* first = rank(0);
  if (truth.failed() || first == nullptr || first->coordinator() == nullptr) return;
  const protocol::Coordinator::Counters& counters = first->coordinator()->counters();
  if (scenario.only_losses() && (counters.demotions != 0 || counters.receivers_evicted != 0)) {
    truth.fail("losses", "nothing but messages was lost, and " +
                             std::to_string(counters.demotions) + " receivers were demoted, " +
                             std::to_string(counters.receivers_evicted) + " evicted");
  }
  if (scenario.lockstep && counters.drifted != 0) {
    truth.fail("1 no mix", "the ranks of one step were compared as different");
  }
}

}  // namespace weightcast::simulation
