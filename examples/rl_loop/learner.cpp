#include "learner.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "signals.hpp"

namespace rl_loop {
namespace {

constexpr std::chrono::milliseconds kCollectLimit(1000);
constexpr int kNotReached = 3;

struct Notice {
  std::uint32_t at_hand = 0;
  Learner::Outcome outcome = Learner::Outcome::kTraining;
};

std::uint64_t rank_seed(std::uint64_t seed, int rank) {
  return seed * 1'000'003U + static_cast<std::uint64_t>(rank);
}

}  // namespace

// What all ranks know alike after the exchange.
struct Learner::Agreement {
  std::size_t segments = 0;  // That every rank has.
  Outcome outcome = Outcome::kTraining;
  std::vector<float> episode_returns;
};

Learner::Learner(const TrainerOptions& options, RankGroup& ranks,
                 std::shared_ptr<PolicyImpl> policy, torch::optim::Optimizer& optimizer)
    : options_(options),
      ranks_(ranks),
      collector_(options.directory, ranks.rank()),
      ppo_({}, std::move(policy), optimizer, ranks, rank_seed(options.seed, ranks.rank())) {
  if (ranks.rank() == 0 && !options.metrics.empty()) {
    metrics_.open(options.metrics, std::ios::trunc);
    if (!metrics_) throw std::runtime_error("cannot write the metrics to " + options.metrics);
  }
}

bool Learner::improve(WeightTag published) {
  const std::size_t at_hand =
      collector_.collect(published, options_.segments, Clock::now() + kCollectLimit);
  const Agreement agreement = agree(at_hand);
  episodes_ += agreement.episode_returns.size();
  for (const float episode_return : agreement.episode_returns) window_.push_back(episode_return);
  while (window_.size() > options_.goal_episodes) window_.pop_front();
  if (agreement.segments > 0) last_trajectory_ = Clock::now();

  outcome_ = agreement.outcome;
  if (updates_ >= options_.min_updates && window_.size() == options_.goal_episodes &&
      mean_return() >= options_.goal) {
    outcome_ = Outcome::kReached;
  }
  if (outcome_ != Outcome::kTraining) return false;
  if (agreement.segments == 0) return true;

  const std::vector<Segment> segments = collector_.take(agreement.segments);
  for (const Segment& segment : segments) transitions_ += segment.transitions();
  const PpoStatistics statistics = ppo_.update(segments);
  ++updates_;
  if (ranks_.rank() == 0) report(published, statistics);
  return true;
}

int Learner::finish() const {
  const char* ending = "";
  switch (outcome_) {
    case Outcome::kTraining:
      ending = "unfinished";
      break;
    case Outcome::kReached:
      ending = "reached the goal";
      break;
    case Outcome::kStopped:
      ending = "stopped by a signal";
      break;
    case Outcome::kTimeLimit:
      ending = "out of time: see --time-limit";
      break;
    case Outcome::kIdle:
      ending = "no trajectories came: are the workers running?";
      break;
  }
  if (ranks_.rank() == 0) {
    std::printf("%s: mean_return=%.1f updates=%llu\n", ending, mean_return(),
                static_cast<unsigned long long>(updates_));
  }
  return outcome_ == Outcome::kReached ? 0 : kNotReached;
}

Learner::Agreement Learner::agree(std::size_t at_hand) {
  const Notice notice{.at_hand = static_cast<std::uint32_t>(at_hand), .outcome = own_outcome()};
  const std::vector<float> returns = collector_.take_episode_returns();
  std::vector<std::uint8_t> bytes(sizeof(Notice) + returns.size() * sizeof(float));
  std::memcpy(bytes.data(), &notice, sizeof(Notice));
  if (!returns.empty()) {
    std::memcpy(bytes.data() + sizeof(Notice), returns.data(), returns.size() * sizeof(float));
  }

  Agreement agreement{
      .segments = options_.segments, .outcome = Outcome::kTraining, .episode_returns = {}};
  for (const auto& theirs : ranks_.exchange(bytes)) {
    Notice other;
    if (theirs.size() < sizeof(Notice)) throw std::runtime_error("a rank sent a short notice");
    std::memcpy(&other, theirs.data(), sizeof(Notice));
    agreement.segments = std::min<std::size_t>(agreement.segments, other.at_hand);
    agreement.outcome = std::max(agreement.outcome, other.outcome);
    const std::size_t count = (theirs.size() - sizeof(Notice)) / sizeof(float);
    const std::size_t before = agreement.episode_returns.size();
    agreement.episode_returns.resize(before + count);
    if (count > 0) {
      std::memcpy(agreement.episode_returns.data() + before, theirs.data() + sizeof(Notice),
                  count * sizeof(float));
    }
  }
  return agreement;
}

Learner::Outcome Learner::own_outcome() const {
  if (stop_requested()) return Outcome::kStopped;
  const auto now = Clock::now();
  if (now - started_ > options_.time_limit) return Outcome::kTimeLimit;
  if (now - last_trajectory_ > options_.idle_limit) return Outcome::kIdle;
  return Outcome::kTraining;
}

double Learner::mean_return() const {
  if (window_.empty()) return 0.0;
  return std::accumulate(window_.begin(), window_.end(), 0.0) / static_cast<double>(window_.size());
}

void Learner::report(WeightTag published, const PpoStatistics& statistics) {
  const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  const auto& counts = collector_.counts();
  std::printf("update=%llu version=%llu mean_return=%.1f episodes=%llu stale=%llu seconds=%.1f\n",
              static_cast<unsigned long long>(updates_),
              static_cast<unsigned long long>(published.number), mean_return(),
              static_cast<unsigned long long>(episodes_),
              static_cast<unsigned long long>(counts.stale), seconds);
  std::fflush(stdout);
  if (!metrics_.is_open()) return;
  metrics_ << nlohmann::json{{"update", updates_},
                             {"version", published.number},
                             {"monotonic_ns", monotonic_ns()},
                             {"seconds", seconds},
                             {"mean_return", mean_return()},
                             {"episodes", episodes_},
                             {"window", window_.size()},
                             {"rank_transitions", transitions_},
                             {"segments_accepted", counts.accepted},
                             {"segments_stale", counts.stale},
                             {"segments_malformed", counts.malformed},
                             {"worker_versions", collector_.versions_seen()},
                             {"policy_loss", statistics.policy_loss},
                             {"value_loss", statistics.value_loss},
                             {"entropy", statistics.entropy},
                             {"divergence", statistics.divergence}}
                  .dump()
           << '\n'
           << std::flush;
}

}  // namespace rl_loop
