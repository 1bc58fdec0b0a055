// The coordinator's members: joining, being refused, leaving, being evicted.
#include <algorithm>
#include <string_view>

#include "protocol/coordinator.hpp"
#include "protocol/seeded_bug.hpp"

namespace weightcast::protocol {
namespace {
constexpr std::size_t kMostKnown = 1024;  ///< names whose newest incarnation is remembered
}  // namespace

void Coordinator::refuse(Peer peer, const Member& member, Refusal reason, std::string text) {
  ++counters_.refused;
  send(peer, member, Refused{reason, std::move(text)});
}

void Coordinator::on_hello(Clock::time_point now, Peer peer, const Message& message,
                           const Hello& hello) {
  const Member& member = message.member;
  if (hello.highest_run > config_.run) {
    superseded_ = true;
    refuse(peer, member, Refusal::kSuperseded,
           "run " + to_string(config_.run) + " has been replaced by " +
               to_string(hello.highest_run));
    return;
  }
  if (hello.policy != config_.policy) {
    refuse(peer, member, Refusal::kPolicy,
           "policy \"" + config_.policy + "\" is published here, not \"" + hello.policy +
               "\"; give both sides the same policy name");
    return;
  }
  const auto newest = known_.find({member.role, member.name});
  if (newest != known_.end() && member.incarnation < newest->second) {
    ++counters_.dropped;  // a delayed Hello of a former stay
    return;
  }
  if (member.role == Role::kSource) {
    if (hello.launch != config_.launch || hello.world_size != config_.world_size ||
        hello.rank >= config_.world_size ||
        member.name != "rank-" + std::to_string(hello.rank)) {
      refuse(peer, member, Refusal::kLaunch,
             "rank " + std::to_string(hello.rank) + " of " + std::to_string(hello.world_size) +
                 " (launch \"" + hello.launch + "\") does not belong to this trainer of " +
                 std::to_string(config_.world_size) + " ranks (launch \"" + config_.launch +
                 "\"); start all ranks by one torchrun, or set rank, world_size and launch alike");
      return;
    }
    welcome_source(now, peer, member, hello);
  } else {
    welcome_receiver(now, peer, member, hello);
  }
}

void Coordinator::know(const Member& member) {
  known_[{member.role, member.name}] = member.incarnation;
  if (known_.size() <= kMostKnown) return;
  // Delayed Hellos of those that went long ago are no longer on their way.
  std::erase_if(known_, [&](const auto& entry) {
    const auto& [role, name] = entry.first;
    return role == Role::kReceiver && !receivers_.contains(name);
  });
}

void Coordinator::welcome_source(Clock::time_point now, Peer peer, const Member& member,
                                 const Hello& hello) {
  // Ranks that started together number their points alike by themselves, and may be a point apart
  // right now: to tell such a one where the others are would shift its numbers against theirs.
  const auto first = first_incarnation_.find(hello.rank);
  const bool counts_itself =
      hello.highest_run.is_none() &&
      (first == first_incarnation_.end() || first->second == member.incarnation);
  const bool of_this_run = counts_itself || hello.highest_run == config_.run;
  const std::uint64_t next_point = of_this_run ? hello.next_point : 0;
  auto found = sources_.find(hello.rank);
  if (found != sources_.end()) {
    if (found->second.member == member) {  // its Welcome was lost
      send(peer, member, Welcome{counts_itself ? 1 : furthest_});
      return;
    }
    if (found->second.peer != peer && now - found->second.last_heard <= config_.member_timeout) {
      refuse(peer, member, Refusal::kNameTaken,
             "rank " + std::to_string(hello.rank) +
                 " is here already; if its process has died, this clears up by itself");
      return;
    }
    drop_source(now, hello.rank, "replaced");
    ++counters_.rejoins;
  }
  furthest_ = std::max(furthest_, next_point);
  // A new process has new slots; those of its predecessor are swept.
  if (hello.highest_run.is_none() && !counts_itself) orphaned_ = published_;
  first_incarnation_.try_emplace(hello.rank, member.incarnation);
  SourceMember source;
  source.peer = peer;
  source.member = member;
  source.last_heard = now;
  source.same_clock = hello.clock == config_.clock;
  source.host = hello.host;
  source.pid = hello.pid;
  source.state.next_point = std::max<std::uint64_t>(1, next_point);
  send(peer, member, Welcome{counts_itself ? 1 : furthest_});
  sources_.insert_or_assign(hello.rank, std::move(source));
  know(member);
  changed_ = true;
  note(false, "source_joined", {{"rank", hello.rank}});
}

void Coordinator::welcome_receiver(Clock::time_point now, Peer peer, const Member& member,
                                   const Hello& hello) {
  auto found = receivers_.find(member.name);
  if (found != receivers_.end()) {
    if (found->second.member == member) {
      send(peer, member, Welcome{furthest_});
      return;
    }
    if (found->second.peer != peer && now - found->second.last_heard <= config_.member_timeout) {
      refuse(peer, member, Refusal::kNameTaken,
             "a receiver named \"" + member.name +
                 "\" is here already; give each receiver a name of its own");
      return;
    }
    drop_receiver(now, member.name, "replaced", true);
    ++counters_.rejoins;
  }
  ReceiverMember receiver;
  receiver.peer = peer;
  receiver.member = member;
  receiver.last_heard = now;
  receiver.state.serving = hello.serving;
  receiver.retry_at = now;
  receiver.in_place = hello.in_place;
  receiver.over_network = hello.over_network;
  receiver.same_clock = hello.clock == config_.clock;
  receiver.host = hello.host;
  receiver.pid = hello.pid;
  receiver.relay_endpoint = hello.relay_endpoint;
  receiver.joined_after = committed_;
  send(peer, member, Welcome{furthest_});
  receivers_.insert_or_assign(member.name, std::move(receiver));
  know(member);
  changed_ = true;
  note(false, "receiver_joined", {{"name", member.name}});
}

void Coordinator::leave() {
  for (const auto& [rank, source] : sources_) {
    send(source.peer, source.member, Refused{Refusal::kStale, "this trainer ends"});
  }
  for (const auto& [name, receiver] : receivers_) {
    send(receiver.peer, receiver.member, Refused{Refusal::kStale, "this trainer ends"});
  }
}

void Coordinator::evict_silent(Clock::time_point now) {
  if (seeded(Bug::kNoEviction)) return;
  std::vector<std::uint32_t> ranks;
  for (const auto& [rank, source] : sources_) {
    if (now - source.last_heard > config_.member_timeout) ranks.push_back(rank);
  }
  for (std::uint32_t rank : ranks) {
    ++counters_.sources_evicted;
    drop_source(now, rank, "silent");
  }
  std::vector<std::string> names;
  for (const auto& [name, receiver] : receivers_) {
    if (now - receiver.last_heard > config_.member_timeout) names.push_back(name);
  }
  for (const std::string& name : names) {
    ++counters_.receivers_evicted;
    drop_receiver(now, name, "silent", true);
  }
}

void Coordinator::drop_source(Clock::time_point now, std::uint32_t rank, const char* why) {
  const std::string text = "rank " + std::to_string(rank) + " " + why;
  const bool on_purpose = std::string_view(why) == "left";
  note(!on_purpose, "source_gone",
       {{"rank", rank},
        {"why", why},
        {"what", "no new versions until it is back; engines serve on"}});
  remember(now, "rank-" + std::to_string(rank), why);
  sources_.erase(rank);
  changed_ = true;
  if (grant_ && grant_->open) void_grant(text);
  // Its slots may be gone at any moment: what nobody serves yet is not brought to anybody.
  if (pending_) pending_.reset();
  if (round_ && !round_->committed) abort_round(now, text.c_str());
}

/// @param name by value: it may be the key of what is erased here
void Coordinator::drop_receiver(Clock::time_point now, std::string name, const char* why, bool lost) {
  auto found = receivers_.find(name);
  if (found == receivers_.end()) return;
  if (round_ && found->second.assignment && found->second.assignment->in_round && lost) {
    round_->lost.insert(name);
  }
  if (lost) note_lost(name);
  note(lost, "receiver_gone", {{"name", name}, {"why", why}});
  remember(now, name, why);
  receivers_.erase(found);
  for (auto& [other, receiver] : receivers_) {
    // What it was read from is gone: asked of somebody else at once.
    if (receiver.assignment && receiver.assignment->relay == name &&
        receiver.assignment->stage == Stage::kPreparing) {
      end_assignment(receiver, Order::kAbort);
    }
  }
  changed_ = true;
}

}  // namespace weightcast::protocol
