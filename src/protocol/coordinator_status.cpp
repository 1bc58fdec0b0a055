// What observers are shown of the coordinator. Nothing here decides anything.
#include <algorithm>
#include <utility>

#include "protocol/coordinator.hpp"
#include "protocol/report.hpp"
#include "protocol/wire.hpp"

namespace weightcast::protocol {
namespace {

constexpr std::size_t kMostNamed = 4;  ///< in a text

/// "engine-0, engine-1, engine-2, engine-3 and 12 more".
std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kMostNamed); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > kMostNamed) {
    text += " and " + std::to_string(names.size() - kMostNamed) + " more";
  }
  return text;
}

Duration since(Clock::time_point now, Clock::time_point then) {
  return std::max<Duration>(Duration(0), now - then);
}

}  // namespace

void Coordinator::remember(Clock::time_point now, const std::string& name, const char* why) {
  gone_.push_front({name, why, now});
  if (gone_.size() > kMaxGoneShown) gone_.pop_back();
}

void Coordinator::time_staged(Clock::time_point now, ReceiverMember& receiver) {
  receiver.times.is_staged = true;
  receiver.times.stage = since(now, receiver.times.began);
}

void Coordinator::time_committed(Clock::time_point now, ReceiverMember& receiver) {
  receiver.times.is_committed = true;
  receiver.times.committed = now;
}

void Coordinator::time_applied(Clock::time_point now, ReceiverMember& receiver,
                               std::int64_t apply_ns) {
  Times& times = receiver.times;
  // One of these states may have been overtaken by the next.
  if (!times.is_staged) time_staged(now, receiver);
  times.turn = times.is_committed ? since(now, times.committed) : Duration(0);
  times.apply = Duration(std::max<std::int64_t>(0, apply_ns));
}

EngineState Coordinator::state_of(const ReceiverMember& receiver) const {
  if (receiver.state.dirty) return EngineState::kDirty;
  if (receiver.lagging || receiver.state.lagging) return EngineState::kLagging;
  if (receiver.assignment) {
    return receiver.assignment->in_round ? EngineState::kInRound : EngineState::kCatchingUp;
  }
  const Version& serving = receiver.state.serving;
  if (serving.is_none() || serving.run != config_.run) return EngineState::kJoining;
  return serving.number >= committed_ ? EngineState::kCurrent : EngineState::kBehind;
}

JobStatus::Trainer Coordinator::show(Clock::time_point now, std::uint32_t rank,
                                     const SourceMember& source) const {
  JobStatus::Trainer trainer;
  trainer.rank = rank;
  trainer.host = source.host;
  trainer.pid = source.pid;
  trainer.silence = since(now, source.last_heard);
  trainer.next_point = source.state.next_point;
  fill(trainer, source.report);
  return trainer;
}

JobStatus::Engine Coordinator::show(Clock::time_point now, const ReceiverMember& receiver) const {
  JobStatus::Engine engine;
  engine.name = receiver.member.name;
  engine.host = receiver.host;
  engine.pid = receiver.pid;
  engine.state = state_of(receiver);
  engine.silence = since(now, receiver.last_heard);
  engine.serving = receiver.state.serving;
  const bool of_this_run = engine.serving.run == config_.run;
  engine.staleness =
      !of_this_run ? published_ : published_ - std::min(published_, engine.serving.number);
  if (receiver.assignment) {
    engine.bringing = receiver.assignment->number;
    engine.progress = receiver.assignment->progress;
  }
  fill(engine, receiver.report);
  engine.last_stage = receiver.times.stage;
  engine.last_switch = receiver.times.turn;
  engine.last_apply = receiver.times.apply;
  engine.trouble = !receiver.failure.empty() ? receiver.failure
                   : receiver.state.lagging  ? "a lease is held past its deadline"
                                             : "";
  return engine;
}

std::string Coordinator::waiting_for() const {
  if (superseded_) return "nothing: another trainer has taken over";
  std::vector<std::string> names;
  if (round_) {
    for (const auto& [name, receiver] : receivers_) {
      if (!receiver.assignment || !receiver.assignment->in_round) continue;
      if (!round_->committed && receiver.assignment->stage != Stage::kPreparing) continue;
      names.push_back(name);
    }
    return listed(names) + (round_->committed ? " to switch to version " : " to take in version ") +
           std::to_string(round_->number);
  }
  for (std::uint32_t rank = 0; rank < config_.world_size && names.size() <= kMostNamed; ++rank) {
    if (!sources_.contains(rank)) names.push_back("rank-" + std::to_string(rank));
  }
  if (!names.empty()) {
    return std::to_string(config_.world_size - sources_.size()) + " of " +
           std::to_string(config_.world_size) + " trainer ranks to join: " + listed(names);
  }
  if (grant_ && grant_->open) {
    if (grant_->point == kNextPoint) return "the trainer's next publish point";
    for (const auto& [rank, source] : sources_) {
      if (!grant_->sealed.contains(rank)) names.push_back("rank-" + std::to_string(rank));
    }
    return listed(names) + " to publish point " + std::to_string(grant_->point);
  }
  for (const auto& [rank, source] : sources_) {
    if (source.state.ready) continue;
    const std::string& why = source.report.blocked;
    names.push_back("rank-" + std::to_string(rank) + (why.empty() ? "" : " (" + why + ")"));
  }
  return names.empty() ? "the next grant" : listed(names) + " to have a free slot";
}

JobStatus Coordinator::picture(Clock::time_point now) const {
  JobStatus status;
  status.policy = config_.policy;
  status.run = config_.run;
  status.mode = config_.p2p ? Mode::kP2p : Mode::kBroadcast;
  status.world_size = config_.world_size;
  status.min_receivers = config_.min_receivers;
  status.published = published_;
  status.committed = committed_;
  if (round_) {
    JobStatus::Round& round = status.round.emplace();
    round.number = round_->number;
    round.committed = round_->committed;
    round.age = since(now, round_->began);
    for (const auto& [name, receiver] : receivers_) {
      if (!receiver.assignment || !receiver.assignment->in_round) continue;
      ++round.engines;
      round.staged += receiver.assignment->stage != Stage::kPreparing ? 1 : 0;
    }
  }
  status.waiting_for = waiting_for();
  status.commits = counters_.commits;
  status.rounds_aborted = counters_.rounds_aborted;
  status.engines_evicted = counters_.receivers_evicted;
  status.points_void = counters_.grants_void;
  status.refused = counters_.refused;
  status.last_applied = counters_.last_applied;
  status.last_apply = Duration(std::max<std::int64_t>(0, counters_.last_apply_ns));
  for (const auto& [rank, source] : sources_) {
    if (status.trainers.size() == kMaxMembersShown) break;
    status.trainers.push_back(show(now, rank, source));
  }
  for (const auto& [name, receiver] : receivers_) {
    if (status.engines.size() == kMaxMembersShown) break;
    status.engines.push_back(show(now, receiver));
  }
  status.left_out = static_cast<std::uint32_t>(sources_.size() - status.trainers.size() +
                                               receivers_.size() - status.engines.size());
  for (const Gone& gone : gone_) status.gone.push_back({gone.name, gone.why, since(now, gone.at)});
  return status;
}

}  // namespace weightcast::protocol
