// Everything that exists in one simulated job: processes, shared memory, the network between them,
// and the hand that kills, stops and cuts them off.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "simulation/event_queue.hpp"
#include "simulation/memory.hpp"
#include "simulation/process.hpp"
#include "simulation/random.hpp"
#include "simulation/remote.hpp"
#include "simulation/scenario.hpp"
#include "simulation/truth.hpp"

namespace weightcast::simulation {

class Engine;
class Trainer;

/// Moments of a version's way at which scripted tests and the fault injector strike.
enum class Phase { kBeforePrepare, kCopying, kStaged, kCommitted };

class World {
 public:
  explicit World(Scenario scenario, bool tracing = false);
  ~World();

  /// Starts the trainer ranks and the engines.
  void start();
  /// Runs until `done`, a broken rule, or `limit` of fake time from now. @return done()
  bool run_until(const std::function<bool()>& done, Duration limit);
  /// The whole scenario: faults, then none, then all must have come right again.
  void play();

  // Processes. Null where there is none now.
  Process* find(Pid pid) const;
  Trainer* rank(std::uint32_t rank) const;
  Engine* engine(std::uint32_t index) const;
  std::uint32_t engines() const noexcept { return static_cast<std::uint32_t>(engines_.size()); }
  const std::string& launch() const noexcept { return launch_; }
  std::uint64_t launch_number() const noexcept { return launches_; }
  /// Out of lockstep: whether another living rank is so far behind that it would be waited for.
  bool far_ahead(const Trainer& trainer) const;
  /// In lockstep: whether every rank of this launch has taken `steps` steps.
  bool all_ranks_took(std::uint64_t steps) const;

  // Faults; they strike when the present event is over.
  void kill(Pid pid);
  void end(Pid pid);  ///< it leaves on purpose
  void stop(Pid pid);
  void cont(Pid pid);
  void start_rank(std::uint32_t rank);
  void start_launch();  ///< all ranks anew; those of the former launch are left to themselves
  void start_engine(std::uint32_t index);
  void cut(Pid from, Pid to, Duration how_long);
  void cease_faults();
  /// Whether bytes flow between two processes now: both run, and nothing is cut.
  bool reaches(Pid one, Pid other) const;
  bool faults_on() const noexcept { return faults_on_; }

  // The network.
  /// Where a member would look for the coordinator now; 0 nowhere.
  Pid announced() const noexcept { return announced_; }
  void announce(Pid pid) noexcept { announced_ = pid; }
  /// A coordinator of a former launch that still lives; 0 if there is none.
  Pid former_coordinator() const;
  protocol::Peer connect(Pid member, Pid coordinator);
  void send_to_coordinator(protocol::Peer peer, protocol::Message message);
  void send_to_member(protocol::Peer peer, protocol::Message message);

  /// Called by processes as they pass a phase.
  void phase(Phase phase, Process& process);
  std::function<void(Phase, Process&)> on_phase;
  bool scripted = false;  ///< nobody is restarted or struck unless the test says so

  /// Ends every process. @return what happened, all told
  Coverage take_coverage();
  /// Counts of a coordinator that ends.
  void count(const protocol::Coordinator::Counters& counters);
  /// Whether every rule that can be broken only by doing nothing is kept.
  bool recovered() const;
  std::string picture() const;  ///< who serves what, for a failure's report

  template <class Text>
  void trace(Text text) {
    if (tracing_) add_trace(text());
  }
  const std::vector<std::string>& lines() const noexcept { return trace_; }
  std::uint64_t hash() const noexcept { return hash_; }
  void mix_hash(std::uint64_t value) noexcept {
    hash_ = (hash_ ^ value) * 0x100000001b3u;
    hash_ ^= hash_ >> 29;
  }
  std::uint64_t next_stamp() noexcept { return ++stamp_; }

  const Scenario scenario;
  EventQueue events;
  Random random;
  Truth truth;
  Memory memory;
  Remote remote;

 private:
  struct Connection {
    Pid member = 0;
    Pid coordinator = 0;
  };
  void transmit(Pid from, Pid to, protocol::Peer peer, protocol::Message message);
  void strike(Pid pid);
  void next_fault();
  void next_partition();
  void after_death_of(Pid pid);
  void add_trace(std::string line);
  Pid add(std::unique_ptr<Process> process);
  Pid random_process();

  std::map<Pid, std::unique_ptr<Process>> processes_;
  std::vector<Pid> ranks_;
  std::vector<Pid> engines_;
  std::vector<Pid> old_ranks_;  ///< of former launches
  std::vector<bool> lost_engines_;
  std::vector<Connection> connections_;
  std::map<std::pair<Pid, Pid>, Clock::time_point> cuts_;
  Pid next_pid_ = 1;
  Pid announced_ = 0;
  std::string launch_ = "launch-0";
  std::uint64_t launches_ = 0;
  bool relaunching_ = false;
  bool faults_on_ = true;
  Run healed_run_;
  std::uint64_t healed_commits_ = 0;
  std::uint64_t healed_published_ = 0;
  std::uint64_t stamp_ = 0;
  std::uint64_t hash_ = 0xcbf29ce484222325u;
  bool tracing_;
  std::vector<std::string> trace_;
};

}  // namespace weightcast::simulation
