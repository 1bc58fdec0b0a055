#include "learner.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <nlohmann/json.hpp>

#include "generation.hpp"
#include "gradients.hpp"
#include "signals.hpp"

namespace grpo {
namespace {

using rl_loop::Clock;
using rl_loop::WeightTag;

constexpr std::chrono::milliseconds kCollectLimit(1000);
constexpr int kNotReached = 3;

std::uint64_t rank_seed(std::uint64_t seed, int rank) {
  return seed * 1'000'003U + static_cast<std::uint64_t>(rank);
}

double seconds_since(Clock::time_point then) {
  return std::chrono::duration<double>(Clock::now() - then).count();
}

}  // namespace

// What a rank tells the others in each iteration; the counts are of what came since the last one.
struct Learner::Notice {
  std::uint64_t at_hand = 0;
  std::uint64_t tokens = 0;
  std::uint64_t samples = 0;
  std::uint64_t stale = 0;
  double rewards = 0.0;
  Outcome outcome = Outcome::kTraining;
  std::uint32_t reserved = 0;
};

// What all ranks know alike after the exchange.
struct Learner::Agreement {
  std::size_t batches = 0;  // That every rank has.
  Notice sums;              // Of the counts; the worst outcome.
};

Learner::Learner(const TrainerOptions& options, rl_loop::RankGroup& ranks,
                 std::shared_ptr<LanguageModelImpl> policy, torch::optim::Optimizer& optimizer)
    : options_(options),
      ranks_(ranks),
      policy_(std::move(policy)),
      task_(options.digits),
      held_out_(task_.held_out(options.held_out)),
      collector_(options.directory, ranks.rank()) {
  if (ranks.rank() == 0 && !options.metrics.empty()) {
    metrics_.open(options.metrics, std::ios::trunc);
    if (!metrics_) throw std::runtime_error("cannot write the metrics to " + options.metrics);
  }
  begin();
  grpo_ = std::make_unique<Grpo>(options_.grpo, policy_, optimizer, ranks_,
                                 rank_seed(options_.seed, ranks_.rank()));
}

void Learner::begin() {
  const auto begun = Clock::now();
  const WarmUp warm = warm_up(*policy_, task_, held_out_, options_.warm_up, options_.seed);
  // All ranks took the same steps; where their arithmetic differs in a last bit, this makes up.
  rl_loop::average_parameters(policy_->distinct_parameters(), ranks_);
  success_at_start_ = success_rate(*policy_, task_, held_out_);
  success_ = success_at_start_;
  started_ = last_report_ = last_samples_ = Clock::now();
  if (ranks_.rank() != 0) return;
  std::printf("warm-up: steps=%d held_out=%.3f seconds=%.1f\n", warm.steps, success_at_start_,
              seconds_since(begun));
  std::fflush(stdout);
  if (!metrics_.is_open()) return;
  metrics_ << nlohmann::json{{"warm_up_steps", warm.steps},
                             {"held_out", success_at_start_},
                             {"seconds", seconds_since(begun)}}
                  .dump()
           << '\n'
           << std::flush;
}

bool Learner::improve(WeightTag published) {
  const bool is_last = iterations_ == options_.iterations;
  // While the workers generate.
  if (is_last || iterations_ % options_.evaluate_every == 0) evaluate();
  if (is_last) outcome_ = Outcome::kDone;

  const std::size_t at_hand =
      is_last ? 0
              : collector_.collect(published, options_.batches, Clock::now() + kCollectLimit);
  const Agreement agreement = agree(at_hand);
  outcome_ = agreement.sums.outcome;
  if (outcome_ != Outcome::kTraining) return false;
  if (agreement.batches == 0) return true;

  last_samples_ = Clock::now();
  const std::vector<SampleBatch> batches = collector_.take(agreement.batches);
  const GrpoStatistics statistics = grpo_->update(batches);
  ++iterations_;
  if (ranks_.rank() == 0) report(published, agreement, batches, statistics);
  return true;
}

int Learner::finish() const {
  const char* ending = "";
  switch (outcome_) {
    case Outcome::kTraining:
      ending = "unfinished";
      break;
    case Outcome::kDone:
      ending = "all iterations done";
      break;
    case Outcome::kStopped:
      ending = "stopped by a signal";
      break;
    case Outcome::kTimeLimit:
      ending = "out of time: see --time-limit";
      break;
    case Outcome::kIdle:
      ending = "no samples came: are the workers running?";
      break;
  }
  if (ranks_.rank() != 0) return outcome_ == Outcome::kDone ? 0 : kNotReached;
  const bool is_reached = success_ >= options_.goal;
  std::printf("%s: iterations=%llu held_out_before=%.3f held_out_after=%.3f goal=%.2f %s\n", ending,
              static_cast<unsigned long long>(iterations_), success_at_start_, success_,
              options_.goal, is_reached ? "reached" : "not reached");
  return outcome_ == Outcome::kDone && is_reached ? 0 : kNotReached;
}

Learner::Agreement Learner::agree(std::size_t at_hand) {
  const SampleCollector::Counts& counts = collector_.counts();
  const Notice notice{.at_hand = at_hand,
                      .tokens = counts.tokens - reported_.tokens,
                      .samples = counts.samples - reported_.samples,
                      .stale = counts.stale - reported_.stale,
                      .rewards = counts.rewards - reported_.rewards,
                      .outcome = own_outcome()};
  reported_ = counts;
  std::vector<std::uint8_t> bytes(sizeof(Notice));
  std::memcpy(bytes.data(), &notice, sizeof(Notice));

  Agreement agreement;
  agreement.batches = options_.batches;
  for (const auto& theirs : ranks_.exchange(bytes)) {
    Notice other;
    if (theirs.size() != sizeof(Notice)) throw std::runtime_error("a rank sent another notice");
    std::memcpy(&other, theirs.data(), sizeof(Notice));
    agreement.batches = std::min<std::size_t>(agreement.batches, other.at_hand);
    agreement.sums.outcome = std::max(agreement.sums.outcome, other.outcome);
    agreement.sums.tokens += other.tokens;
    agreement.sums.samples += other.samples;
    agreement.sums.stale += other.stale;
    agreement.sums.rewards += other.rewards;
  }
  return agreement;
}

Learner::Outcome Learner::own_outcome() const {
  if (outcome_ != Outcome::kTraining) return outcome_;
  if (rl_loop::stop_requested()) return Outcome::kStopped;
  const auto now = Clock::now();
  if (now - started_ > options_.time_limit) return Outcome::kTimeLimit;
  if (now - last_samples_ > options_.idle_limit) return Outcome::kIdle;
  return Outcome::kTraining;
}

void Learner::evaluate() {
  if (ranks_.rank() == 0) success_ = success_rate(*policy_, task_, held_out_);
}

void Learner::report(WeightTag published, const Agreement& agreement,
                     const std::vector<SampleBatch>& batches, const GrpoStatistics& statistics) {
  double behind = 0.0;
  for (const SampleBatch& batch : batches) {
    behind += static_cast<double>(published.number - batch.tag.number);
  }
  behind /= static_cast<double>(batches.size());
  const Notice& sums = agreement.sums;
  const double reward = sums.rewards / static_cast<double>(std::max<std::uint64_t>(sums.samples, 1));
  const double rate = static_cast<double>(sums.tokens) / std::max(seconds_since(last_report_), 1e-6);
  last_report_ = Clock::now();
  std::printf("iteration=%llu version=%llu mean_reward=%.3f held_out=%.3f behind=%.2f seconds=%.1f\n",
              static_cast<unsigned long long>(iterations_),
              static_cast<unsigned long long>(published.number), reward, success_, behind,
              seconds_since(started_));
  std::fflush(stdout);
  if (!metrics_.is_open()) return;
  metrics_ << nlohmann::json{{"iteration", iterations_},
                             {"version", published.number},
                             {"monotonic_ns", rl_loop::monotonic_ns()},
                             {"seconds", seconds_since(started_)},
                             {"mean_reward", reward},
                             {"held_out", success_},
                             {"behind", behind},
                             {"tokens", sums.tokens},
                             {"tokens_per_s", rate},
                             {"stale", sums.stale},
                             {"loss", statistics.loss},
                             {"clipped", statistics.clipped},
                             {"divergence", statistics.divergence}}
                  .dump()
           << '\n'
           << std::flush;
}

}  // namespace grpo
