#pragma once

#include <cstdint>
#include <deque>
#include <fstream>
#include <memory>
#include <vector>

#include "clock.hpp"
#include "options.hpp"
#include "ppo.hpp"
#include "trajectories.hpp"

namespace rl_loop {

/// One trainer rank's part of the training: collect trajectories of the version just published,
/// agree with the other ranks, update. Not thread-safe.
class Learner {
 public:
  enum class Outcome { kTraining, kReached, kStopped, kTimeLimit, kIdle };

  /// @param ranks outlives the learner, and so does `optimizer`.
  Learner(const TrainerOptions& options, RankGroup& ranks, std::shared_ptr<PolicyImpl> policy,
          torch::optim::Optimizer& optimizer);

  /// One iteration. Collective; waits about a second for trajectories at most, and without any it
  /// returns with the weights unchanged, so that publishing goes on for workers still to come.
  /// @param published the version that the workers are on their way to.
  /// @return whether to go on; false leaves the weights as they were published.
  [[nodiscard]] bool improve(WeightTag published);

  /// Says on rank 0 how the training ended.
  /// @return the process's exit status: 0 when the goal was reached.
  [[nodiscard]] int finish() const;

 private:
  struct Agreement;
  Agreement agree(std::size_t at_hand);
  Outcome own_outcome() const;
  double mean_return() const;
  void report(WeightTag published, const PpoStatistics& statistics);

  TrainerOptions options_;
  RankGroup& ranks_;
  SegmentCollector collector_;
  Ppo ppo_;
  std::deque<float> window_;  ///< Returns of the last goal_episodes episodes of all workers.
  std::ofstream metrics_;
  std::uint64_t updates_ = 0;
  std::uint64_t episodes_ = 0;
  std::uint64_t transitions_ = 0;
  Clock::time_point started_ = Clock::now();
  Clock::time_point last_trajectory_ = Clock::now();
  Outcome outcome_ = Outcome::kTraining;
};

}  // namespace rl_loop
