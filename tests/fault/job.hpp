// A job of real processes under faults: trainer ranks in lockstep and engines, driven by events.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "support/private_place.hpp"

namespace weightcast::test {

/// A version as a process reported it.
struct Seen {
  std::string run;
  std::uint64_t number = 0;
};

/// A child that runs fault_process. It is dead and reaped when this is gone, whatever happened.
class FaultProcess {
 public:
  enum class State { kRunning, kStopped, kDead };

  /// Forks and executes the helper beside this executable.
  FaultProcess(std::string name, std::vector<std::string> arguments);
  ~FaultProcess();
  FaultProcess(const FaultProcess&) = delete;
  FaultProcess& operator=(const FaultProcess&) = delete;

  const std::string& name() const noexcept { return name_; }
  State state() const noexcept { return state_; }
  bool running() const noexcept { return state_ == State::kRunning; }
  int exit_status() const noexcept { return exit_status_; }  ///< as waitpid(2) gives it
  int output() const noexcept { return output_; }            ///< for poll(2); -1 at its end

  void say(const std::string& line);
  void signal(int number);
  /// Ends it with SIGKILL and reaps it.
  void kill();
  /// Notes what became of the process and reads what it reported, without waiting.
  void look();

  bool may_die = false;              ///< its death is part of the test

  // What it reported.
  bool ready = false;                ///< trainer: in touch with the coordinator
  std::uint64_t point = 0;           ///< trainer: the last point that it passed
  std::string run;                   ///< trainer: its run, as of the last point
  std::uint64_t published = 0;       ///< trainer: newest version, as of the last point
  std::string blocked;               ///< trainer
  std::vector<std::string> log;      ///< trainer: log lines; both: why it was refused
  std::vector<Seen> versions;        ///< engine: each switch
  std::uint64_t leases = 0;          ///< engine: given so far, as of the last answer
  std::uint64_t answers = 0;         ///< engine: to `count`
  bool attached = false;             ///< engine, as of the last answer
  std::uint64_t rejoined = 0;        ///< engine, as of the last answer
  std::vector<std::string> bad;      ///< engine: leases that did not hold the trainer's bytes

  std::uint64_t told = 0;            ///< trainer: the point that it was told to train to
  std::uint64_t asked = 0;           ///< engine: `count` so far

  bool logged(const std::string& part, std::size_t from = 0) const;
  std::uint64_t serving(const std::string& of_run) const;  ///< newest of that run; 0: none

 private:
  void take(const std::string& line);

  std::string name_;
  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
  State state_ = State::kRunning;
  int exit_status_ = 0;
  std::string buffer_;
};

struct JobOptions {
  std::string mode = "broadcast";
  std::string transport = "shm";
  std::string activation = "view";
  std::chrono::milliseconds heartbeat{50};
  std::chrono::milliseconds member_timeout{500};
  std::chrono::milliseconds attempt_timeout{1000};
  int scale = 4;  ///< of the policy: some 250 KB
};

/// Two trainer ranks and some engines. No call waits longer than kPatience.
class FaultJob {
 public:
  static constexpr std::chrono::seconds kPatience{40};
  static constexpr std::uint32_t kRanks = 2;

  explicit FaultJob(JobOptions options);
  /// Kills what still runs, and clears up after it: only a test that failed leaves any.
  ~FaultJob();
  FaultJob(const FaultJob&) = delete;
  FaultJob& operator=(const FaultJob&) = delete;

  /// Starts the process of that place; the one before it is dead by then.
  FaultProcess& start_rank(std::uint32_t number, bool takeover = false);
  /// The same, but the process belongs to the caller and is not part of the lockstep.
  std::unique_ptr<FaultProcess> make_rank(std::uint32_t number, bool takeover = false) const;
  FaultProcess& start_engine(const std::string& name);
  /// Ranks started from now on belong to another start of the trainer.
  void next_launch();
  /// Takes the process of that rank out of the job; the caller owns it.
  std::unique_ptr<FaultProcess> release_rank(std::uint32_t number);

  FaultProcess& rank(std::uint32_t number) { return *ranks_.at(number); }
  FaultProcess& engine(const std::string& name);

  /// Lets the running ranks train, in lockstep, until `done`. @return false after kPatience, or as
  /// soon as something is wrong; why() says what
  bool train_until(const std::function<bool()>& done);
  const std::string& why() const noexcept { return why_; }

  /// Trains until every running engine has given `more` leases since the call.
  /// In place (serial) one engine is enough: another may have had its version half in.
  bool leases_go_on(std::uint64_t more = 10);

  /// Smallest version of the trainer's present run that a running engine but `but` serves.
  std::uint64_t oldest(const FaultProcess* but = nullptr) const;
  /// Greatest that any engine serves.
  std::uint64_t newest() const;

  /// Trains until every running engine but `but` serves `more` further versions, one after the
  /// other or not.
  bool versions_flow(std::uint64_t more = 3, const FaultProcess* but = nullptr);

  /// Lets all leave; then nothing may be left. @return "" or what is
  std::string finish();
  /// Objects in shared memory with this job's name.
  std::vector<std::string> shared_memory() const;
  const std::string& directory() const noexcept { return place_.path(); }

  bool all_engines(const std::function<bool(const FaultProcess&)>& is) const;

 private:
  void turn();
  std::string whats_wrong() const;
  std::vector<FaultProcess*> everybody() const;

  const JobOptions options_;
  const std::string job_;
  PrivatePlace place_;
  int launch_ = 1;
  std::uint64_t point_ = 0;  ///< up to which the ranks have been told to train
  Clock::time_point next_step_;
  Clock::time_point next_count_;
  std::string why_;
  std::vector<std::unique_ptr<FaultProcess>> ranks_{kRanks};
  std::vector<std::unique_ptr<FaultProcess>> engines_;
};

}  // namespace weightcast::test
