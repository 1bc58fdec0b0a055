#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <vector>

#include "arithmetic.hpp"
#include "clock.hpp"
#include "grpo.hpp"
#include "options.hpp"
#include "sample_collector.hpp"

namespace grpo {

/// One trainer rank's part of the training: collect samples of the version just published, agree
/// with the other ranks, update. Not thread-safe.
class Learner {
 public:
  enum class Outcome : std::uint32_t { kTraining, kDone, kStopped, kTimeLimit, kIdle };

  /// Warms `policy` up: all ranks hold the same weights afterwards. Collective.
  /// @param ranks outlives the learner, and so does `optimizer`.
  Learner(const TrainerOptions& options, rl_loop::RankGroup& ranks,
          std::shared_ptr<LanguageModelImpl> policy, torch::optim::Optimizer& optimizer);

  /// One iteration. Collective; waits about a second for samples at most, and without any it
  /// returns with the weights unchanged, so that publishing goes on for workers still to come.
  /// @param published the version that the workers are on their way to.
  /// @return whether to go on; false leaves the weights as they were published.
  [[nodiscard]] bool improve(rl_loop::WeightTag published);

  /// Says on rank 0 how the training ended.
  /// @return the process's exit status: on rank 0, 0 when the goal was reached and success rose.
  [[nodiscard]] int finish() const;

 private:
  struct Notice;
  struct Agreement;
  void begin();
  Agreement agree(std::size_t at_hand);
  Outcome own_outcome() const;
  void evaluate();
  void report(rl_loop::WeightTag published, const Agreement& agreement,
              const std::vector<SampleBatch>& batches, const GrpoStatistics& statistics);

  TrainerOptions options_;
  rl_loop::RankGroup& ranks_;
  std::shared_ptr<LanguageModelImpl> policy_;
  Arithmetic task_;
  std::vector<Problem> held_out_;
  SampleCollector collector_;
  SampleCollector::Counts reported_;
  std::unique_ptr<Grpo> grpo_;
  std::ofstream metrics_;
  double success_at_start_ = 0.0;
  double success_ = 0.0;  // Of the last evaluation.
  std::uint64_t iterations_ = 0;
  rl_loop::Clock::time_point started_;
  rl_loop::Clock::time_point last_report_;
  rl_loop::Clock::time_point last_samples_;
  Outcome outcome_ = Outcome::kTraining;
};

}  // namespace grpo
