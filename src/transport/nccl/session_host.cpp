#include "transport/nccl/session_host.hpp"

#include <algorithm>
#include <utility>

#include "plan/nccl_leaders.hpp"
#include "staging/bucket_board.hpp"

namespace weightcast::transport {

using Kind = SessionAnswer::Kind;

void SessionHost::offer(const SessionOffer& offer, Clock::time_point now) {
  withdraw(now);
  offer_ = offer;
  failures_ = 0;
  refused_ = Status::ok();
  drop_unused();
}

void SessionHost::withdraw(Clock::time_point) {
  offer_.reset();
  guests_.clear();
  is_of_offer_ = false;
  if (phase_ == Phase::kRunning) {
    abort();
  } else if (phase_ != Phase::kAborting) {
    phase_ = Phase::kIdle;
  }
}

void SessionHost::abort() {
  actions_.push_back({.kind = Action::Kind::kAbort, .session = session_});
  phase_ = Phase::kAborting;
}

Status SessionHost::check(const SessionAsk& ask) const {
  if (!offer_ || ask.version != offer_->version || ask.generation != offer_->generation) {
    return {Code::kStale, "the source does not offer that version over nccl (any more)"};
  }
  if (!refused_) return refused_;
  if (ask.plan != offer_->plan) {
    return {Code::kMismatch, "receiver " + ask.name + " has other buckets than the source: give " +
                                 "both the same bucket size and layout, or use another transport"};
  }
  if (ask.nccl_version != offer_->nccl_version) {
    return {Code::kMismatch, "expected NCCL " + std::to_string(offer_->nccl_version) +
                                 ", receiver " + ask.name + " has " +
                                 std::to_string(ask.nccl_version) + ": install the same one"};
  }
  if (ask.device == offer_->device) {
    return {Code::kInvalid, "receiver " + ask.name + " is on the source's own GPU: NCCL takes a " +
                                "GPU once; use cuda_ipc"};
  }
  for (const auto& [name, guest] : guests_) {
    const bool shares = !ask.place.empty() && guest.ask.place == ask.place && !ask.board.empty() &&
                        !guest.ask.board.empty();
    if (name != ask.name && !guest.is_done && guest.ask.device == ask.device && !shares) {
      return {Code::kExists, "engine " + name + " is there by the same GPU as receiver " + ask.name +
                                 ", which cannot get the bytes from it, and NCCL takes a GPU once"};
    }
  }
  return Status::ok();
}

SessionAnswer SessionHost::ask(const SessionAsk& ask, Clock::time_point now) {
  if (Status s = check(ask); !s) return {.kind = Kind::kRefuse, .status = std::move(s)};
  auto it = guests_.find(ask.name);
  if (it != guests_.end() && it->second.ask.incarnation > ask.incarnation) {
    return {.kind = Kind::kRefuse,
            .status = {Code::kStale, "a newer life of receiver " + ask.name + " has asked"}};
  }
  const bool is_anew = it != guests_.end() && it->second.ask.incarnation < ask.incarnation;
  const bool was_member = it != guests_.end() && it->second.in_session == session_;
  // Its former life took part: that session cannot come to its end.
  if (is_anew && was_member && phase_ == Phase::kRunning && is_ranked(ask.name)) abort();
  // What it said of itself no longer holds: the id comes too late.
  if (is_anew && phase_ == Phase::kMakingId && is_ranked(ask.name)) phase_ = Phase::kIdle;
  if (is_anew) neighbours_.erase(ask.name);
  if (is_anew || it == guests_.end()) {
    Guest fresh;
    fresh.heard = now;
    fresh.turn = next_turn_++;
    it = guests_.insert_or_assign(ask.name, std::move(fresh)).first;
  }
  Guest& guest = it->second;
  if (guest.is_done && ask.failed < guest.in_session) {
    // A neighbour may never have heard that it was to go; nothing is under way for that long.
    const bool has_missed_it = guest.was_neighbour && now - guest.done_at > options_.silent;
    if (!has_missed_it) return {};
  }
  guest.is_done = false;
  guest.ask = ask;
  guest.heard = now;
  // Whoever still has it may come back to it.
  if (Kept* const kept = kept_of(ask); kept != nullptr) {
    kept->version = std::max(kept->version, offer_->version.number);
  }
  if (guest.in_session == session_ && phase_ == Phase::kRunning) {
    if (ask.failed != session_) return go(ask.name);  // told again, where the answer was lost
    if (is_ranked(ask.name)) {
      abort();
    } else {
      neighbours_.erase(ask.name);
      guest.in_session = 0;
    }
  }
  gather(now);
  // It was the last one who was waited for, and no id has to be made.
  if (phase_ == Phase::kRunning && guests_.at(ask.name).in_session == session_) return go(ask.name);
  return {};
}

void SessionHost::gone(const std::string& name, Clock::time_point now) {
  const auto it = guests_.find(name);
  if (it == guests_.end() || it->second.is_done) return;
  const bool was_member = it->second.in_session == session_;
  const bool is_chosen = is_ranked(name);
  guests_.erase(it);
  neighbours_.erase(name);
  if (phase_ == Phase::kRunning && was_member && is_chosen) {
    abort();
  } else if (phase_ == Phase::kMakingId && is_chosen) {
    phase_ = Phase::kIdle;  // the id comes too late
  }
  gather(now);
}

/// That who asks says it has, if it is in it; null: none.
SessionHost::Kept* SessionHost::kept_of(const SessionAsk& ask) {
  const auto it = kept_.find(ask.kept);
  if (it == kept_.end()) return nullptr;
  const std::vector<std::string>& members = it->second.members;
  const bool is_member = std::find(members.begin(), members.end(), ask.name) != members.end();
  return is_member ? &it->second : nullptr;
}

bool SessionHost::is_ranked(const std::string& name) const {
  return std::find(members_.begin(), members_.end(), name) != members_.end();
}

SessionAnswer SessionHost::go(const std::string& name) {
  const auto neighbour = neighbours_.find(name);
  const bool has_rank = neighbour == neighbours_.end();
  const std::string& ranked = has_rank ? name : neighbour->second.leader;
  const auto rank = std::find(members_.begin(), members_.end(), ranked) - members_.begin() + 1;
  SessionAnswer answer{.kind = Kind::kGo,
                       .status = {},
                       .session = session_,
                       .kept = from_,
                       .keeps = keeps_,
                       .blocks = options_.blocks,
                       .id = id_,
                       .rank = static_cast<int>(rank),
                       .size = static_cast<int>(members_.size()) + 1,
                       .first = first_};
  if (has_rank) {
    answer.neighbours = static_cast<std::uint32_t>(
        std::count_if(neighbours_.begin(), neighbours_.end(),
                      [&](const auto& it) { return it.second.leader == name; }));
  } else {
    answer.keeps = options_.is_p2p && kept_of(guests_.at(name).ask) != nullptr;
    answer.board = neighbour->second.board;
    answer.leader_ask = neighbour->second.leader_ask;
    answer.seat = neighbour->second.seat;
  }
  return answer;
}

/// Of those who ask, who is in no session now, in the order of asking.
std::vector<std::string> SessionHost::waiting() const {
  std::vector<std::pair<std::uint64_t, std::string>> order;
  for (const auto& [name, guest] : guests_) {
    if (!guest.is_done) order.emplace_back(guest.turn, name);
  }
  std::sort(order.begin(), order.end());
  std::vector<std::string> names;
  for (auto& [turn, name] : order) names.push_back(std::move(name));
  return names;
}

void SessionHost::forget_silent(Clock::time_point now) {
  std::erase_if(guests_, [&](const auto& it) {
    return !it.second.is_done && now - it.second.heard > options_.silent;
  });
}

void SessionHost::gather(Clock::time_point now) {
  if (phase_ != Phase::kIdle && phase_ != Phase::kGathering) return;
  forget_silent(now);
  std::vector<std::string> here = waiting();
  if (here.empty()) {
    phase_ = Phase::kIdle;
    return;
  }
  if (phase_ == Phase::kIdle) {
    phase_ = Phase::kGathering;
    gathering_since_ = now;
  }
  const auto is_ready = [&](const std::string& name) {
    const Guest& guest = guests_.at(name);
    return guest.ask.is_ready &&
           (options_.fresh == Duration::zero() || now - guest.heard <= options_.fresh);
  };
  if (options_.is_p2p) {
    // One alone needs nobody else.
    const auto it = std::find_if(here.begin(), here.end(), is_ready);
    if (it == here.end()) return;
    // But who wants the same in the same place may have it from that one.
    const std::string& place = guests_.at(*it).ask.place;
    std::erase_if(here, [&, first = *it](const std::string& name) {
      const bool joins = !place.empty() && guests_.at(name).ask.place == place && is_ready(name);
      return name != first && !joins;
    });
    return begin(here);
  }
  const std::uint32_t expected = offer_->expected != 0 ? offer_->expected : options_.expected;
  const std::size_t most = expected != 0 ? expected : options_.most;
  const Duration window = failures_ > 0 ? options_.silent : options_.window;
  if (here.size() < most && now - gathering_since_ < window) return;
  if (!std::all_of(here.begin(), here.end(), is_ready)) return;
  if (here.size() > options_.most) here.resize(options_.most);
  begin(here);
}

void SessionHost::begin(const std::vector<std::string>& here) {
  seat(here);
  ++session_;
  is_of_offer_ = true;
  use_or_drop_kept();
  if (from_ != 0) return start();
  phase_ = Phase::kMakingId;
  actions_.push_back({.kind = Action::Kind::kMakeId, .session = session_});
}

/// Sets members_ and neighbours_. Who finds no seat waits for the next session.
void SessionHost::seat(const std::vector<std::string>& here) {
  members_.clear();
  neighbours_.clear();
  std::vector<plan::NcclCandidate> candidates;
  for (const std::string& name : here) {
    const SessionAsk& ask = guests_.at(name).ask;
    candidates.push_back(
        {name, ask.board.empty() ? std::string() : ask.place, kept_of(ask) != nullptr});
  }
  const auto seats = plan::choose_leaders(candidates, staging::kBoardSeats);
  for (std::size_t i = 0; i < here.size(); ++i) {
    if (seats[i].leader == i) {
      members_.push_back(here[i]);
    } else if (seats[i].leader != plan::kNoLeader) {
      neighbours_[here[i]] = {here[seats[i].leader], seats[i].seat};
    }
  }
}

/// Sets from_, keeps_, and where a kept communicator is used, members_ in the order of its ranks.
void SessionHost::use_or_drop_kept() {
  from_ = 0;
  const std::uint64_t candidate = guests_.at(members_.front()).ask.kept;
  const auto it = kept_.find(candidate);
  const auto has_it = [&](const std::string& name) {
    return is_ranked(name) && guests_.at(name).ask.kept == candidate;
  };
  if (it != kept_.end() && it->second.members.size() == members_.size() &&
      std::all_of(it->second.members.begin(), it->second.members.end(), has_it)) {
    from_ = candidate;
    members_ = it->second.members;
  }
  // A receiver keeps one of a source. In a round a neighbour has none; where each comes by itself, it may
  // be alone the next time.
  const auto takes_part = [&](const std::string& name) {
    return is_ranked(name) || (!options_.is_p2p && neighbours_.contains(name));
  };
  for (auto one = kept_.begin(); one != kept_.end();) {
    const std::vector<std::string>& members = one->second.members;
    const bool is_replaced =
        one->first != from_ && std::any_of(members.begin(), members.end(), takes_part);
    if (is_replaced) actions_.push_back({.kind = Action::Kind::kDrop, .session = one->first});
    one = is_replaced ? kept_.erase(one) : std::next(one);
  }
  keeps_ = from_ != 0 || (kept_.size() < options_.keep &&
                          std::all_of(members_.begin(), members_.end(), [&](const auto& name) {
                            return guests_.at(name).ask.may_keep;
                          }));
}

/// Of receivers that have gone, or come another way.
void SessionHost::drop_unused() {
  const bool is_one_used = phase_ == Phase::kRunning || phase_ == Phase::kAborting;
  for (auto one = kept_.begin(); one != kept_.end();) {
    const bool is_used = is_one_used && one->first == from_;
    const bool is_unused = !is_used && one->second.version + options_.keep_versions <
                                           offer_->version.number;
    if (is_unused) actions_.push_back({.kind = Action::Kind::kDrop, .session = one->first});
    one = is_unused ? kept_.erase(one) : std::next(one);
  }
}

std::vector<std::uint64_t> SessionHost::kept() const {
  std::vector<std::uint64_t> sessions;
  for (const auto& [session, kept] : kept_) sessions.push_back(session);
  return sessions;
}

void SessionHost::id_made(std::uint64_t session, const Result<driver::NcclUniqueId>& id,
                          Clock::time_point now) {
  if (session != session_ || phase_ != Phase::kMakingId) return;
  if (!id) {
    phase_ = Phase::kRunning;
    return flow_ended(session, id.status(), now);
  }
  id_ = *id;
  start();
}

void SessionHost::start() {
  first_ = 0xffffffff;
  version_ = offer_->version.number;
  const auto take_in = [&](Guest& guest) {
    guest.in_session = session_;
    first_ = std::min(first_, guest.ask.have);
  };
  for (const std::string& name : members_) take_in(guests_.at(name));
  for (auto& [name, neighbour] : neighbours_) {
    take_in(guests_.at(name));
    const SessionAsk& leader = guests_.at(neighbour.leader).ask;
    neighbour.board = leader.board;
    neighbour.leader_ask = leader.incarnation;
  }
  phase_ = Phase::kRunning;
  actions_.push_back({Action::Kind::kStart, session_, from_, keeps_, id_,
                      static_cast<int>(members_.size()) + 1, first_, members_,
                      neighbours_.size()});
}

void SessionHost::flow_failing(std::uint64_t session) {
  if (session == session_ && phase_ == Phase::kRunning) phase_ = Phase::kAborting;
}

void SessionHost::flow_ended(std::uint64_t session, const Status& status, Clock::time_point now) {
  if (session != session_ || (phase_ != Phase::kRunning && phase_ != Phase::kAborting)) return;
  phase_ = Phase::kIdle;
  std::vector<std::string> members = std::exchange(members_, {});
  if (status && keeps_) {
    Kept& kept = kept_[from_ != 0 ? from_ : session];
    kept = {members, std::max(kept.version, version_)};
  } else if (from_ != 0) {
    kept_.erase(from_);
  }
  const auto neighbours = std::exchange(neighbours_, {});
  if (!is_of_offer_) return gather(now);
  for (const auto& [name, neighbour] : neighbours) members.push_back(name);
  for (const std::string& name : members) {
    const auto it = guests_.find(name);
    if (it == guests_.end() || it->second.in_session != session) continue;
    if (status && it->second.ask.failed != session) {
      it->second.is_done = true;
      it->second.was_neighbour = neighbours.contains(name);
      it->second.done_at = now;
    } else if (it->second.ask.failed == session) {
      it->second.in_session = 0;
    } else {
      guests_.erase(it);  // whether it lives shows when it asks again
    }
  }
  if (status) {
    failures_ = 0;
  } else if (++failures_ >= options_.failures && !options_.is_p2p) {
    refused_ = {Code::kUnavailable, "NCCL failed " + std::to_string(failures_) +
                                        " times in a row, the last time: " + status.message() +
                                        "; this version goes over another transport"};
  }
  gather(now);
}

void SessionHost::tick(Clock::time_point now) {
  if (offer_ && refused_) gather(now);
}

std::vector<SessionHost::Action> SessionHost::take_actions() { return std::exchange(actions_, {}); }

}  // namespace weightcast::transport
