#include "simulation/world.hpp"

#include <algorithm>
#include <variant>

#include "simulation/describe.hpp"
#include "simulation/engine.hpp"
#include "simulation/trainer.hpp"

namespace weightcast::simulation {

World::World(Scenario its, bool tracing)
    : scenario(its), random(its.seed * 0x2545f4914f6cdd1du + 99),
      truth(its.ranks, its.most_kept(), its.max_dirty),
      memory(truth),
      remote(*this),
      tracing_(tracing) {
  connections_.emplace_back();  // peer 0 is rank 0's own source
  ranks_.assign(scenario.ranks, 0);
  engines_.assign(scenario.engines + scenario.joiners, 0);
  lost_engines_.assign(engines_.size(), false);
}

World::~World() { remote.forget_all(); }

Process* World::find(Pid pid) const {
  const auto found = processes_.find(pid);
  return found == processes_.end() ? nullptr : found->second.get();
}

Trainer* World::rank(std::uint32_t rank) const {
  return static_cast<Trainer*>(find(ranks_[rank]));
}

Engine* World::engine(std::uint32_t index) const {
  return static_cast<Engine*>(find(engines_[index]));
}

Pid World::former_coordinator() const {
  for (const Pid pid : old_ranks_) {
    const auto* trainer = static_cast<Trainer*>(find(pid));
    if (trainer != nullptr && trainer->rank() == 0) return pid;
  }
  return 0;
}

bool World::far_ahead(const Trainer& trainer) const {
  constexpr std::uint64_t kMostAhead = 2;  // less than lies between two flushes
  if (!trainer.source().joined()) return false;
  for (std::uint32_t r = 0; r < scenario.ranks; ++r) {
    const Trainer* other = rank(r);
    if (other == nullptr || !other->source().joined()) continue;
    if (other->source().run() != trainer.source().run()) continue;
    if (trainer.source().next_point() > other->source().next_point() + kMostAhead) return true;
  }
  return false;
}

bool World::all_ranks_took(std::uint64_t steps) const {
  for (std::uint32_t r = 0; r < scenario.ranks; ++r) {
    const Trainer* trainer = rank(r);
    if (trainer == nullptr || trainer->steps() < steps) return false;
  }
  return true;
}

Pid World::add(std::unique_ptr<Process> process) {
  const Pid pid = process->pid();
  Process* raw = process.get();
  processes_.emplace(pid, std::move(process));
  raw->run([] {});
  return pid;
}

void World::start_rank(std::uint32_t rank) {
  const Pid pid = next_pid_++;
  auto process = std::make_unique<Trainer>(*this, pid, rank, launch_, launches_);
  ranks_[rank] = pid;
  if (rank == 0) ++truth.coverage.new_runs;
  trace([&] { return "rank " + std::to_string(rank) + " starts as " + std::to_string(pid); });
  add(std::move(process));
}

void World::start_launch() {
  ++launches_;
  launch_ = "launch-" + std::to_string(launches_);
  for (std::uint32_t r = 0; r < scenario.ranks; ++r) {
    if (ranks_[r] != 0 && find(ranks_[r]) != nullptr) old_ranks_.push_back(ranks_[r]);
    ranks_[r] = 0;
  }
  for (std::uint32_t r = 0; r < scenario.ranks; ++r) {
    const std::uint64_t launch = launches_;
    events.after(random.between(0ms, 60ms), [this, r, launch] {
      if (launch == launches_ && find(ranks_[r]) == nullptr) start_rank(r);
    });
  }
}

void World::start_engine(std::uint32_t index) {
  const Pid pid = next_pid_++;
  engines_[index] = pid;
  trace([&] { return "engine " + std::to_string(index) + " starts as " + std::to_string(pid); });
  Activation activation = Activation::kView;
  std::uint64_t share = random.below(1000);
  for (const auto& [permille, which] : {std::pair(scenario.flip_permille, Activation::kFlip),
                                        std::pair(scenario.staged_permille, Activation::kStaged),
                                        std::pair(scenario.serial_permille, Activation::kSerial)}) {
    if (share < permille) {
      activation = which;
      break;
    }
    share -= permille;
  }
  const bool network =
      activation != Activation::kView && random.chance(scenario.network_permille);
  add(std::make_unique<Engine>(*this, pid, "engine-" + std::to_string(index), activation, network));
}

void World::start() {
  start_launch();
  for (std::uint32_t i = 0; i < engines_.size(); ++i) {
    const bool joins_later = i >= scenario.engines;
    events.after(joins_later ? random.between(200ms, scenario.faults_for)
                             : random.between(0ms, 100ms),
                 [this, i] {
                   if (engines_[i] == 0) start_engine(i);
                 });
  }
}

bool World::run_until(const std::function<bool()>& done, Duration limit) {
  const Clock::time_point end = events.now() + limit;
  while (!truth.failed() && !done()) {
    if (events.now() >= end || !events.step()) return false;
  }
  return !truth.failed();
}

// ---- the network ----------------------------------------------------------------------------

protocol::Peer World::connect(Pid member, Pid coordinator) {
  connections_.push_back({member, coordinator});
  return connections_.size() - 1;
}

void World::send_to_coordinator(protocol::Peer peer, protocol::Message message) {
  transmit(connections_[peer].member, connections_[peer].coordinator, peer, std::move(message));
}

void World::send_to_member(protocol::Peer peer, protocol::Message message) {
  transmit(connections_[peer].coordinator, connections_[peer].member, peer, std::move(message));
}

void World::transmit(Pid from, Pid to, protocol::Peer peer, protocol::Message message) {
  ++truth.coverage.messages;
  if (faults_on_) {
    const auto cut = cuts_.find({from, to});
    if (cut != cuts_.end() && events.now() < cut->second) return;
    if (random.chance(scenario.drop_permille)) return;
  }
  const auto shared = std::make_shared<const protocol::Message>(std::move(message));
  const int copies = faults_on_ && random.chance(scenario.duplicate_permille) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    Duration delay = random.between(50us, scenario.delay);
    if (faults_on_ && random.chance(scenario.slow_permille)) {
      delay += random.between(Duration(0), scenario.slow);
    }
    events.after(delay, [this, to, peer, shared] {
      mix_hash(static_cast<std::uint64_t>(events.now().time_since_epoch().count()));
      mix_hash(to * 64 + shared->body.index());
      Process* process = find(to);
      if (process == nullptr) return;
      trace([&] { return "  to " + std::to_string(to) + ": " + describe(*shared); });
      process->deliver(peer, shared);
    });
  }
}

bool World::reaches(Pid one, Pid other) const {
  const Process* first = find(one);
  const Process* second = find(other);
  if (first == nullptr || second == nullptr || first->stopped() || second->stopped()) return false;
  if (!faults_on_) return true;
  for (const auto& way : {std::pair(one, other), std::pair(other, one)}) {
    const auto cut = cuts_.find(way);
    if (cut != cuts_.end() && events.now() < cut->second) return false;
  }
  return true;
}

void World::cut(Pid from, Pid to, Duration how_long) {
  trace([&] { return "cut " + std::to_string(from) + " -> " + std::to_string(to); });
  cuts_[{from, to}] = events.now() + how_long;
}

// ---- the end --------------------------------------------------------------------------------

void World::count(const protocol::Coordinator::Counters& counters) {
  Coverage& coverage = truth.coverage;
  coverage.receivers_evicted += counters.receivers_evicted;
  coverage.sources_evicted += counters.sources_evicted;
  coverage.rejoins += counters.rejoins;
  coverage.catch_ups += counters.catch_ups;
  coverage.demotions += counters.demotions;
  coverage.grants_void += counters.grants_void;
  coverage.rounds_aborted += counters.rounds_aborted;
}

Coverage World::take_coverage() {
  remote.forget_all();
  processes_.clear();
  truth.coverage.locked_slots = memory.refused_because_locked();
  return truth.coverage;
}

bool World::recovered() const {
  Trainer* first = rank(0);
  if (first == nullptr || first->coordinator() == nullptr) return false;
  const protocol::Coordinator& coordinator = *first->coordinator();
  const std::uint64_t commits =
      coordinator.counters().commits - (coordinator.run() == healed_run_ ? healed_commits_ : 0);
  if (commits < 4) return false;
  // The newest version when the faults ceased, or the first of a run that began later.
  const Version goal{coordinator.run(),
                     coordinator.run() == healed_run_ ? healed_published_ + 1 : 1};
  for (std::uint32_t i = 0; i < engines_.size(); ++i) {
    const Engine* it = engine(i);
    if (it != nullptr && it->serves() < goal) return false;
  }
  return true;
}

std::string World::picture() const {
  std::string out;
  for (std::uint32_t r = 0; r < scenario.ranks; ++r) {
    Trainer* it = rank(r);
    out += "rank " + std::to_string(r) + ": ";
    if (it == nullptr) {
      out += "dead\n";
      continue;
    }
    out += "pid " + std::to_string(it->pid()) + (it->stopped() ? " stopped" : "") +
           (it->source().joined() ? " joined" : " alone") +
           " next_point=" + std::to_string(it->source().next_point()) +
           " steps=" + std::to_string(it->steps()) + " blocked=\"" + it->source().blocked() + "\"";
    if (const auto* coordinator = it->coordinator()) {
      out += " run=" + to_string(coordinator->run()) +
             " published=" + std::to_string(coordinator->published()) +
             " committed=" + std::to_string(coordinator->committed()) +
             " grants=" + std::to_string(coordinator->counters().grants) +
             " void=" + std::to_string(coordinator->counters().grants_void) +
             (coordinator->round_open() ? " round" : "") +
             (coordinator->superseded() ? " superseded" : "");
    }
    out += "\n";
  }
  for (std::uint32_t i = 0; i < engines_.size(); ++i) {
    const Engine* it = engine(i);
    out += "engine-" + std::to_string(i) + ": ";
    if (it == nullptr) {
      out += "dead\n";
      continue;
    }
    out += "pid " + std::to_string(it->pid()) + (it->stopped() ? " stopped" : "") +
           " " + it->kind() +
           (it->receiver().attached() ? " attached" : " alone") + " serves " +
           to_string(it->serves()) + "\n";
  }
  return out;
}

void World::add_trace(std::string line) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(
      events.now().time_since_epoch() - std::chrono::seconds(1000));
  constexpr std::size_t kLines = 4000;
  if (trace_.size() >= 2 * kLines) trace_.erase(trace_.begin(), trace_.begin() + kLines);
  trace_.push_back(std::to_string(us.count()) + " us  " + std::move(line));
}

}  // namespace weightcast::simulation
