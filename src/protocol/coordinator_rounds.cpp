// The coordinator's rounds and catch-ups: from a sealed version to engines that serve it.
#include <algorithm>

#include "protocol/coordinator.hpp"
#include "protocol/seeded_bug.hpp"

namespace weightcast::protocol {
namespace {
constexpr Duration kMaxBackoff = std::chrono::seconds(5);
constexpr std::uint32_t kTriesInRound = 2;
/// A receiver that goes on placing bytes is waited for this many times attempt_timeout.
constexpr int kMostExtensions = 6;
}  // namespace

void Coordinator::assign(Clock::time_point now, ReceiverMember& receiver, std::uint64_t number,
                         bool in_round, const ReceiverMember* relay) {
  Assignment assignment;
  assignment.attempt = ++attempts_;
  assignment.number = number;
  assignment.in_round = in_round;
  assignment.deadline = now + config_.attempt_timeout;
  assignment.last_deadline = now + kMostExtensions * config_.attempt_timeout;
  if (relay != nullptr) {
    assignment.relay = relay->member.name;
    assignment.relay_endpoint = relay->relay_endpoint;
    ++counters_.relayed;
  }
  if (receiver.assignment && receiver.assignment->in_round == in_round &&
      receiver.assignment->number == number) {
    assignment.failures = receiver.assignment->failures;
  }
  receiver.assignment = assignment;
  receiver.times.began = now;
  receiver.times.is_staged = receiver.times.is_committed = false;
  send_prepare(now, receiver);
  changed_ = true;
}

void Coordinator::send_prepare(Clock::time_point now, ReceiverMember& receiver) {
  receiver.assignment->prepare_sent = now;
  const auto version = versions_.find(receiver.assignment->number);
  if (version == versions_.end()) return;  // not reached: assignments keep their versions
  send(receiver.peer, receiver.member,
       Prepare{receiver.assignment->attempt, version->first, version->second.manifest,
               receiver.assignment->relay, receiver.assignment->relay_endpoint});
}

void Coordinator::note_progress(Clock::time_point now, ReceiverMember& receiver) const {
  Assignment& assignment = *receiver.assignment;
  if (receiver.state.attempt != assignment.attempt ||
      receiver.state.progress <= assignment.progress) {
    return;
  }
  assignment.progress = receiver.state.progress;
  assignment.deadline = std::min(std::max(assignment.deadline, now + config_.attempt_timeout),
                                 assignment.last_deadline);
}

/// Clocks of other hosts say nothing here: then the moment counts at which it was heard.
std::int64_t Coordinator::applied_at(Clock::time_point now, const ReceiverMember& receiver) const {
  return receiver.same_clock ? receiver.state.applied_at_ns : now.time_since_epoch().count();
}

void Coordinator::end_assignment(ReceiverMember& receiver, Order order) {
  if (!receiver.assignment) return;
  receiver.last_attempt = receiver.assignment->attempt;
  receiver.last_order = order;
  receiver.assignment.reset();
  changed_ = true;
}

void Coordinator::consider_round(Clock::time_point now) {
  if (round_ || !pending_) return;
  Round round;
  round.number = *pending_;
  round.began = now;
  pending_.reset();
  round_ = std::move(round);
  changed_ = true;
  for (auto& [name, receiver] : receivers_) {
    if (receiver.lagging || receiver.state.lagging) continue;
    if (receiver.catch_up_failures != 0 && now < receiver.retry_at) continue;
    // Its bytes flow into place: called off it would have nothing to serve.
    if (receiver.in_place && receiver.assignment &&
        receiver.assignment->stage == Stage::kCommitting) {
      continue;
    }
    receiver.failure.clear();
    assign(now, receiver, round_->number, true);
  }
}

void Coordinator::on_receiver_state(Clock::time_point now, ReceiverMember& receiver,
                                    const ReceiverState& state) {
  if (state.sequence <= receiver.state.sequence) {
    ++counters_.dropped;
    return;
  }
  receiver.state = state;
  if (state.report) receiver.report = *state.report;
  if (!receiver.assignment) return;
  note_progress(now, receiver);
  Assignment& assignment = *receiver.assignment;
  const bool serves = state.serving.run == config_.run && state.serving.number >= assignment.number;
  const auto version = versions_.find(assignment.number);
  if (serves || (state.attempt == assignment.attempt && state.phase == Phase::kApplied)) {
    receiver.catch_up_failures = 0;
    receiver.failure.clear();
    receiver.bad_relay.clear();
    const std::int64_t apply_ns =
        version == versions_.end()
            ? 0
            : applied_at(now, receiver) - version->second.captured_at_ns;
    time_applied(now, receiver, apply_ns);
    if (assignment.in_round) {
      if (round_) round_->apply_ns = std::max(round_->apply_ns, apply_ns);
    } else {
      if (config_.p2p && assignment.number == committed_) {
        counters_.last_apply_ns = std::max(counters_.last_apply_ns, apply_ns);
      }
      receiver.lagging = receiver.lagging && assignment.number < receiver.lag_number;
      ++counters_.catch_ups;
    }
    end_assignment(receiver, Order::kNone);
    if (config_.p2p) note_spread();
    return;
  }
  const bool about_this = state.attempt == assignment.attempt ||
                          seeded(Bug::kStaleIncarnationCounted);
  if (!about_this) return;
  if (state.lagging && assignment.in_round) {
    demote(now, receiver, "a lease is held past its deadline");
  } else if (state.phase == Phase::kFailed) {
    failed(now, receiver, state.failure);
  } else if (state.phase == Phase::kStaged && assignment.stage == Stage::kPreparing) {
    assignment.stage = Stage::kStaged;
    time_staged(now, receiver);
    if (!assignment.in_round) let_switch(now, receiver);  // that version is committed already
  } else if (assignment.stage == Stage::kCommitting &&
             (state.phase == Phase::kIdle || state.phase == Phase::kStaging)) {
    // It has lost what it had staged.
    failed(now, receiver, "it no longer holds the staged version");
  }
}

void Coordinator::failed(Clock::time_point now, ReceiverMember& receiver, const std::string& why) {
  Assignment& assignment = *receiver.assignment;
  receiver.failure = why;
  if (assignment.in_round) {
    if (++assignment.failures < kTriesInRound && !round_->committed) {
      assign(now, receiver, assignment.number, true);
    } else {
      demote(now, receiver, why);
    }
    return;
  }
  const Duration backoff =
      std::min<Duration>(kMaxBackoff, config_.catch_up_backoff *
                                          (1 << std::min<std::uint32_t>(receiver.catch_up_failures, 6)));
  ++receiver.catch_up_failures;
  receiver.retry_at = now + backoff;
  receiver.bad_relay = assignment.relay;
  note(true, "catch_up_failed",
       {{"name", receiver.member.name}, {"version", assignment.number}, {"why", why}});
  end_assignment(receiver, Order::kAbort);
}

void Coordinator::demote(Clock::time_point now, ReceiverMember& receiver, const std::string& why) {
  ++counters_.demotions;
  if (round_) round_->lost.insert(receiver.member.name);
  receiver.lagging = true;
  receiver.lag_number = receiver.assignment->number;
  receiver.failure = why;
  receiver.retry_at = now;
  note(true, "receiver_lagging",
       {{"name", receiver.member.name},
        {"version", receiver.assignment->number},
        {"why", why}});
  end_assignment(receiver, Order::kAbort);
}

void Coordinator::consider_commit(Clock::time_point now) {
  if (!round_ || round_->committed) return;
  bool any_staged = false;
  bool all_staged = true;
  for (const auto& [name, receiver] : receivers_) {
    if (!receiver.assignment || !receiver.assignment->in_round) continue;
    if (receiver.assignment->stage == Stage::kStaged) {
      any_staged = true;
    } else {
      all_staged = false;
    }
  }
  if (!all_staged && !(any_staged && seeded(Bug::kEarlyCommit))) return;
  round_->committed = true;
  const std::uint64_t former = committed_;
  committed_ = round_->number;
  ++counters_.commits;
  changed_ = true;
  for (auto& [name, receiver] : receivers_) {
    if (!receiver.assignment) continue;
    if (receiver.assignment->in_round) {
      let_switch(now, receiver);
    } else if (receiver.assignment->number < former &&
               receiver.assignment->stage == Stage::kPreparing) {
      // Catching up with something twice overtaken would pin a third slot: begin anew.
      end_assignment(receiver, Order::kAbort);
    }
  }
}

/// The version that it has staged may be served. In place, where bytes only come now, it waits for its
/// turn.
void Coordinator::let_switch(Clock::time_point now, ReceiverMember& receiver) {
  Assignment& assignment = *receiver.assignment;
  changed_ = true;
  if (receiver.in_place && !seeded(Bug::kAllDirtyAtOnce)) {
    assignment.stage = Stage::kQueued;
    return;
  }
  assignment.stage = Stage::kCommitting;
  time_committed(now, receiver);
  assignment.deadline = now + config_.attempt_timeout;
  assignment.last_deadline = now + kMostExtensions * config_.attempt_timeout;
}

void Coordinator::drop_overtaken_queue() {
  for (auto& [name, receiver] : receivers_) {
    // Not a byte of it has moved: the newer one is as near, and needs no further version to be kept.
    const auto& assignment = receiver.assignment;
    if (assignment && assignment->stage == Stage::kQueued && !assignment->in_round &&
        assignment->number < committed_) {
      end_assignment(receiver, Order::kAbort);
    }
  }
}

void Coordinator::let_in_place_go(Clock::time_point now) {
  // Whoever goes now has nothing to serve until all bytes have come: not while a rank is away.
  if (sources_.size() != config_.world_size && !seeded(Bug::kDirtyWithoutSource)) return;
  std::uint32_t in_place = 0;
  std::uint32_t dirty = 0;
  for (const auto& [name, receiver] : receivers_) {
    if (!receiver.in_place) continue;
    ++in_place;
    const bool goes = receiver.assignment && receiver.assignment->stage == Stage::kCommitting;
    // One that fails again and again does not keep the others from what they can have.
    const bool stuck = receiver.catch_up_failures >= kTriesInRound;
    dirty += goes || (receiver.state.dirty && !stuck) ? 1 : 0;
  }
  const std::uint32_t most =
      config_.max_dirty != 0 ? config_.max_dirty : std::max(1u, in_place / 2);
  for (auto& [name, receiver] : receivers_) {
    if (!receiver.assignment || receiver.assignment->stage != Stage::kQueued) continue;
    if (receiver.assignment->number <= orphaned_ && receiver.assignment->relay.empty()) {
      // Its bytes went with a rank that was replaced: the next version is for it.
      if (receiver.assignment->in_round) demote(now, receiver, "a share went with its rank");
      continue;
    }
    // Who is dirty already is counted, and has nothing to lose.
    if (!receiver.state.dirty && dirty >= most) continue;
    dirty += receiver.state.dirty ? 0 : 1;
    receiver.assignment->stage = Stage::kCommitting;
    time_committed(now, receiver);
    receiver.assignment->deadline = now + config_.attempt_timeout;
    receiver.assignment->last_deadline = now + kMostExtensions * config_.attempt_timeout;
    changed_ = true;
  }
}

void Coordinator::consider_round_end(Clock::time_point) {
  if (!round_ || !round_->committed) return;
  for (const auto& [name, receiver] : receivers_) {
    if (receiver.assignment && receiver.assignment->in_round) return;
  }
  Verdict verdict;
  verdict.number = round_->number;
  verdict.lost.assign(round_->lost.begin(), round_->lost.end());
  verdict.min_receivers = config_.min_receivers;
  verdict_ = std::move(verdict);
  verdict_fixed_ = false;
  counters_.last_apply_ns = round_->apply_ns;
  note_applied(round_->number);
  std::size_t applied = 0;
  for (const auto& [name, receiver] : receivers_) {
    const Version& serving = receiver.state.serving;
    applied += serving.run == config_.run && serving.number >= round_->number ? 1 : 0;
  }
  note(false, "version_applied",
       {{"version", round_->number},
        {"receivers", applied},
        {"lost", round_->lost.size()},
        {"publish_to_applied_us", round_->apply_ns / 1000}});
  round_.reset();
  changed_ = true;
}

void Coordinator::abort_round(Clock::time_point, const char* why) {
  ++counters_.rounds_aborted;
  note(true, "round_aborted", {{"version", round_->number}, {"why", why}});
  for (auto& [name, receiver] : receivers_) {
    if (receiver.assignment && receiver.assignment->in_round) {
      end_assignment(receiver, Order::kAbort);
    }
  }
  round_.reset();
  changed_ = true;
}

void Coordinator::consider_catch_ups(Clock::time_point now) {
  if (committed_ == 0 || !versions_.contains(committed_)) return;
  for (auto& [name, receiver] : receivers_) {
    if (receiver.assignment || now < receiver.retry_at) continue;
    const bool current = receiver.state.serving.run == config_.run &&
                         receiver.state.serving.number >= committed_;
    if (current) {
      // It may take part again once it has shown that it can follow.
      if (receiver.state.serving.number >= receiver.lag_number) receiver.lagging = false;
      continue;
    }
    // While a lease holds its second copy it could not take anything in.
    if (receiver.state.lagging) continue;
    assign(now, receiver, committed_, false);
  }
}

void Coordinator::check_deadlines(Clock::time_point now) {
  if (seeded(Bug::kNoEviction)) return;
  for (auto& [name, receiver] : receivers_) {
    if (!receiver.assignment || now <= receiver.assignment->deadline) continue;
    // Who has staged waits for the others, and is not late with them.
    if (receiver.assignment->stage == Stage::kStaged ||
        receiver.assignment->stage == Stage::kQueued) {
      continue;
    }
    const char* why = receiver.assignment->stage == Stage::kCommitting
                          ? "the switch took longer than attempt_timeout"
                          : "staging took longer than attempt_timeout";
    if (receiver.assignment->in_round) {
      demote(now, receiver, why);
    } else {
      failed(now, receiver, why);
    }
  }
}

bool Coordinator::on_its_way(const FlushRequest& flush) const {
  if (grant_ && grant_->open && grant_->ordinal == flush.grant_ordinal) return true;
  return (pending_ && *pending_ >= flush.point) || (round_ && round_->number >= flush.point);
}

void Coordinator::fix_verdict() {
  // By the first who asks, so that every rank hears the same.
  if (verdict_fixed_) return;
  verdict_->applied.clear();
  for (const auto& [name, receiver] : receivers_) {
    const Version& serving = receiver.state.serving;
    if (serving.run == config_.run && serving.number >= verdict_->number) {
      verdict_->applied.push_back(name);
    }
  }
  const bool enough = verdict_->applied.size() >= config_.min_receivers;
  verdict_fixed_ = enough || !verdict_->lost.empty();
}

void Coordinator::answer_flushes() {
  for (auto& [rank, source] : sources_) {
    if (!source.flush) continue;
    Verdict answer;
    if (config_.p2p) {
      if (!answer_from_paces(*source.flush, answer)) continue;
    } else if (verdict_ && verdict_->number >= source.flush->point) {
      fix_verdict();
      if (!verdict_fixed_) continue;  // too few receivers yet: its caller's deadline decides
      answer = *verdict_;
    } else if (on_its_way(*source.flush)) {
      continue;
    }
    answer.min_receivers = config_.min_receivers;
    answer.ordinal = source.flush->ordinal;
    source.flush.reset();
    send(source.peer, source.member, std::move(answer));
  }
}

}  // namespace weightcast::protocol
