#include "protocol/coordinator.hpp"

#include <algorithm>

#include "protocol/seeded_bug.hpp"
#include "protocol/source.hpp"

namespace weightcast::protocol {
namespace {
constexpr std::uint64_t kMaxLookahead = 1024;
}  // namespace

Coordinator::Coordinator(CoordinatorConfig config, Clock::time_point now)
    : config_(std::move(config)), last_tick_(now), next_beat_(now + config_.heartbeat) {}

void Coordinator::receive(Clock::time_point now, Peer peer, const Message& message) {
  if (message.run > config_.run && !message.run.is_none()) {
    if (!superseded_) {
      superseded_ = true;
      note(true, "superseded",
           {{"by_run", to_string(message.run)},
            {"what", "another trainer publishes this policy; stop this one or give it another job "
                     "name"}});
      if (grant_ && grant_->open) void_grant("superseded");
    }
    refuse(peer, message.member, Refusal::kSuperseded,
           "run " + to_string(config_.run) + " has been replaced by " + to_string(message.run));
    settle(now);
    return;
  }
  if (const auto* hello = std::get_if<Hello>(&message.body)) {
    on_hello(now, peer, message, *hello);
    settle(now);
    return;
  }
  if (message.run != config_.run) {
    ++counters_.dropped;
    return;
  }
  if (message.member.role == Role::kSource) {
    auto found = std::find_if(sources_.begin(), sources_.end(), [&](const auto& entry) {
      return entry.second.member.name == message.member.name;
    });
    if (found == sources_.end() || found->second.member != message.member) {
      refuse(peer, message.member, Refusal::kStale, "not a member (any more); join again");
      return;
    }
    SourceMember& source = found->second;
    source.last_heard = now;
    source.peer = peer;
    if (const auto* state = std::get_if<SourceState>(&message.body)) {
      on_source_state(now, source, *state);
    } else if (const auto* sealed = std::get_if<Sealed>(&message.body)) {
      on_sealed(now, found->first, *sealed);
    } else if (const auto* capturing = std::get_if<Capturing>(&message.body)) {
      on_capturing(found->first, *capturing);
    } else if (const auto* flush = std::get_if<FlushRequest>(&message.body)) {
      source.flush = *flush;
    } else if (std::holds_alternative<Bye>(message.body)) {
      drop_source(now, found->first, "left");
    } else {
      ++counters_.dropped;
    }
  } else {
    auto found = receivers_.find(message.member.name);
    const bool known =
        found != receivers_.end() && (found->second.member == message.member ||
                                      seeded(Bug::kStaleIncarnationCounted));
    if (!known) {
      refuse(peer, message.member, Refusal::kStale, "not a member (any more); join again");
      return;
    }
    ReceiverMember& receiver = found->second;
    receiver.last_heard = now;
    receiver.peer = peer;
    if (const auto* state = std::get_if<ReceiverState>(&message.body)) {
      on_receiver_state(now, receiver, *state);
    } else if (std::holds_alternative<Bye>(message.body)) {
      drop_receiver(now, found->first, "left", false);
    } else {
      ++counters_.dropped;
    }
  }
  settle(now);
}

void Coordinator::on_source_state(Clock::time_point, SourceMember& source,
                                  const SourceState& state) {
  if (state.sequence <= source.state.sequence) {
    ++counters_.dropped;
    return;
  }
  source.state = state;
  source.state_known = true;
  if (state.report) source.report = *state.report;
  furthest_ = std::max(furthest_, state.next_point);
  if (grant_ && grant_->open && state.grant_ordinal == grant_->ordinal && state.grant_void) {
    if (state.void_reason == kMissed) lookahead_ = std::min(lookahead_ * 2, kMaxLookahead);
    if (seeded(Bug::kVoidForgotten)) return;
    void_grant(source.member.name + ": " + state.void_reason);
  }
}

void Coordinator::void_grant(const std::string& why) {
  grant_->open = false;
  grant_->sealed.clear();
  ++counters_.grants_void;
  changed_ = true;
  note(false, "grant_void", {{"grant", grant_->ordinal}, {"why", why}});
}

void Coordinator::on_sealed(Clock::time_point now, std::uint32_t rank, const Sealed& sealed) {
  SourceMember& source = sources_.at(rank);
  if (sealed.grant_ordinal > source.sealed_ordinal) {
    source.sealed_ordinal = sealed.grant_ordinal;
    changed_ = true;
  }
  if (!grant_ || !grant_->open || sealed.grant_ordinal != grant_->ordinal ||
      sealed.share.rank != rank) {
    ++counters_.dropped;
    return;
  }
  if (grant_->point != kNextPoint && sealed.point != grant_->point) {
    void_grant(source.member.name + " sealed point " + std::to_string(sealed.point) +
               " instead of " + std::to_string(grant_->point));
    return;
  }
  grant_->sealed.insert_or_assign(rank, sealed);
  const std::size_t shares = config_.world_size - (seeded(Bug::kUnsealedCounted) ? 1 : 0);
  if (grant_->sealed.size() >= shares) finish_grant(now);
}

void Coordinator::on_capturing(std::uint32_t rank, const Capturing& capturing) {
  const bool fits = grant_ && grant_->open && capturing.grant_ordinal == grant_->ordinal &&
                    capturing.share.rank == rank &&
                    (grant_->point == kNextPoint || capturing.point == grant_->point);
  if (!fits) {
    ++counters_.dropped;
    return;
  }
  grant_->begun.insert_or_assign(rank, capturing.share);
  if (grant_->begun.size() != config_.world_size) return;
  Ahead ahead;
  ahead.number = capturing.point;
  for (auto& [of, share] : grant_->begun) ahead.manifest.shares.push_back(std::move(share));
  grant_->begun.clear();
  if (!plan::check_manifest(ahead.manifest)) return;  // finish_grant says why
  ++counters_.announced;
  for (const auto& [name, receiver] : receivers_) {
    const bool busy = receiver.assignment.has_value() || receiver.lagging || receiver.state.lagging;
    if (busy || receiver.in_place || receiver.over_network) continue;
    send(receiver.peer, receiver.member, ahead);
  }
}

void Coordinator::finish_grant(Clock::time_point) {
  const Sealed& first = grant_->sealed.begin()->second;
  VersionRecord record;
  for (const auto& [rank, sealed] : grant_->sealed) {
    if (sealed.layout_fingerprint != first.layout_fingerprint) {
      note(true, "ranks_disagree",
           {{"rank", rank},
            {"what", "it publishes tensors of other names, dtypes or shapes than rank 0 does; "
                     "build the same model on every rank"}});
      void_grant("ranks publish different tensors");
      return;
    }
    record.manifest.shares.push_back(sealed.share);
    if (!sources_.at(rank).same_clock) continue;
    record.captured_at_ns = std::max(record.captured_at_ns, sealed.captured_at_ns);
  }
  if (Status status = plan::check_manifest(record.manifest); !status) {
    note(true, "manifest_refused", {{"why", status.message()}});
    void_grant("manifest refused");
    return;
  }
  // One that was published but whose round was aborted may come again: a flush takes it anew.
  if (first.point <= committed_ || first.point < published_) {
    void_grant("point " + std::to_string(first.point) + " is not newer than " +
               std::to_string(published_));
    return;
  }
  if (!compare_ranks()) ++counters_.drifted;
  grant_->open = false;
  lookahead_ = std::max<std::uint64_t>(1, lookahead_ / 2);
  published_ = first.point;
  if (config_.p2p) {
    committed_ = published_;
    ++counters_.commits;
    counters_.last_apply_ns = 0;
  } else {
    pending_ = published_;
  }
  versions_[published_] = std::move(record);
  grant_->sealed.clear();
  changed_ = true;
}

bool Coordinator::compare_ranks() {
  if (!grant_->compare) return true;
  const Sealed& first = grant_->sealed.begin()->second;
  bool equal = true;
  for (const auto& [rank, sealed] : grant_->sealed) {
    if (!sealed.has_policy_digest || sealed.policy_digest == first.policy_digest) continue;
    equal = false;
    note(true, "ranks_drifted",
         {{"rank", rank},
          {"point", sealed.point},
          {"what", "its parameters differ from rank 0's: the replicas no longer train the same "
                   "policy; check that gradients are averaged and seeds agree"}});
  }
  return equal;
}

std::uint64_t Coordinator::furthest_point() const noexcept {
  std::uint64_t furthest = 1;
  for (const auto& [rank, source] : sources_) {
    furthest = std::max(furthest, source.state.next_point);
  }
  return furthest;
}

void Coordinator::consider_grant(Clock::time_point) {
  if (superseded_ || (grant_ && grant_->open) || pending_ || round_) return;
  if (sources_.size() != config_.world_size) return;
  bool waiting = false;
  for (const auto& [rank, source] : sources_) {
    if (!source.state_known || !source.state.ready) return;
    waiting = waiting || source.state.waiting;
    // It can neither take the others' point nor they its: one of them is about to move.
    if (source.state.waiting && source.state.next_point < furthest_point()) return;
  }
  Grant grant;
  grant.ordinal = ++grant_ordinal_;
  grant.open = true;
  if (config_.world_size == 1) {
    grant.point = kNextPoint;
  } else {
    // A rank that waits at its point can take exactly that one; others are given a head start.
    grant.point = furthest_point() + (waiting ? 0 : lookahead_ - 1);
  }
  ++counters_.grants;
  grant.compare = config_.world_size > 1 && config_.compare_every != 0 &&
                  counters_.grants % config_.compare_every == 0;
  grant_ = std::move(grant);
  changed_ = true;
}

std::vector<std::uint64_t> Coordinator::points_to_keep() const {
  std::set<std::uint64_t> points;
  // What can no longer be read whole need not be kept for those who may join: where readers hold
  // all other slots, its slot is the only one that the next version can come in.
  if (committed_ > orphaned_) points.insert(committed_);
  if (pending_) points.insert(*pending_);
  if (round_) points.insert(round_->number);
  for (const auto& [name, receiver] : receivers_) {
    if (!receiver.assignment || !receiver.assignment->relay.empty()) continue;
    // Who has staged a version holds it by itself, but for those whose bytes come after the commit.
    const bool reads = receiver.assignment->stage == Stage::kPreparing
                           ? !seeded(Bug::kCatchUpUnpinned)
                           : receiver.in_place && !seeded(Bug::kInPlaceUnpinned);
    if (reads) points.insert(receiver.assignment->number);
  }
  return {points.begin(), points.end()};
}

void Coordinator::forget_versions() {
  std::set<std::uint64_t> needed{committed_};
  for (const std::uint64_t point : points_to_keep()) needed.insert(point);
  for (const auto& [name, receiver] : receivers_) {
    if (receiver.assignment) needed.insert(receiver.assignment->number);
  }
  std::erase_if(versions_, [&](const auto& entry) { return !needed.contains(entry.first); });
}

void Coordinator::settle(Clock::time_point now) {
  consider_round(now);
  consider_commit(now);
  consider_round_end(now);
  drop_overtaken_queue();
  config_.p2p ? consider_paces(now) : consider_catch_ups(now);
  let_in_place_go(now);
  consider_grant(now);
  answer_flushes();
  if (changed_) {
    forget_versions();
    broadcast_orders(now);
  }
}

void Coordinator::tick(Clock::time_point now) {
  if (now - last_tick_ > config_.member_timeout / 2) {
    // This process was stopped: the silence was ours, so nobody is evicted or late for it.
    for (auto& [rank, source] : sources_) source.last_heard = now;
    for (auto& [name, receiver] : receivers_) {
      receiver.last_heard = now;
      if (receiver.assignment) receiver.assignment->deadline += now - last_tick_;
    }
  }
  last_tick_ = now;
  evict_silent(now);
  check_deadlines(now);
  settle(now);
  // Not only with the beat, which every change puts off.
  for (auto& [name, receiver] : receivers_) {
    const auto& assignment = receiver.assignment;
    if (assignment && receiver.state.attempt < assignment->attempt &&
        now - assignment->prepare_sent >= config_.heartbeat && !seeded(Bug::kNoRetry)) {
      send_prepare(now, receiver);
    }
  }
  if (now >= next_beat_) broadcast_orders(now);
}

Clock::time_point Coordinator::next_wakeup() const noexcept { return next_beat_; }

void Coordinator::broadcast_orders(Clock::time_point now) {
  changed_ = false;
  next_beat_ = now + config_.heartbeat;
  for (auto& [rank, source] : sources_) send_orders(source);
  for (auto& [name, receiver] : receivers_) send_orders(receiver);
}

void Coordinator::send_orders(SourceMember& source) {
  SourceOrders orders;
  orders.sequence = ++source.sequence;
  if (grant_) {
    orders.grant_ordinal = grant_->ordinal;
    orders.grant_point = grant_->point;
    orders.grant_open = grant_->open;
    orders.compare = grant_->compare;
  }
  orders.sealed_ordinal = source.sealed_ordinal;
  orders.keep = points_to_keep();
  orders.published = published_;
  orders.committed = committed_;
  send(source.peer, source.member, std::move(orders));
}

void Coordinator::send_orders(ReceiverMember& receiver) {
  ReceiverOrders orders;
  orders.sequence = ++receiver.sequence;
  orders.published = published_;
  orders.committed = committed_;
  if (receiver.assignment) {
    orders.attempt = receiver.assignment->attempt;
    orders.order =
        receiver.assignment->stage == Stage::kCommitting ? Order::kCommit : Order::kHold;
  } else {
    orders.attempt = receiver.last_attempt;
    orders.order = receiver.last_order;
  }
  send(receiver.peer, receiver.member, std::move(orders));
}

void Coordinator::send(Peer peer, const Member& member, Body body) {
  outbox_.push_back(Outgoing{peer, Message{config_.run, member, std::move(body)}});
}

void Coordinator::note(bool warning, std::string_view event, base::LogFields fields) {
  notes_.push_back(Note{warning, base::log_text(event, fields)});
}

std::uint32_t Coordinator::sources_joined() const noexcept {
  return static_cast<std::uint32_t>(sources_.size());
}

std::vector<Coordinator::ReceiverView> Coordinator::receivers() const {
  std::vector<ReceiverView> views;
  for (const auto& [name, receiver] : receivers_) {
    const bool current = receiver.state.serving.run == config_.run && committed_ != 0;
    views.push_back({name, receiver.state.serving,
                     receiver.state.dirty                         ? "dirty"
                     : receiver.lagging || receiver.state.lagging ? "lagging"
                     : current                                  ? "active"
                                                                : "joining"});
  }
  return views;
}

}  // namespace weightcast::protocol
