#include "simulation/truth.hpp"

#include <algorithm>

namespace weightcast::simulation {
void Coverage::add(const Coverage& o) {
  commits += o.commits;
  receivers_evicted += o.receivers_evicted;
  sources_evicted += o.sources_evicted;
  rejoins += o.rejoins;
  catch_ups += o.catch_ups;
  demotions += o.demotions;
  grants_void += o.grants_void;
  rounds_aborted += o.rounds_aborted;
  new_runs += o.new_runs;
  verdicts += o.verdicts;
  void_verdicts += o.void_verdicts;
  captures += o.captures;
  stalls += o.stalls;
  locked_slots += o.locked_slots;
  stale_slots += o.stale_slots;
  corruptions += o.corruptions;
  corruptions_found += o.corruptions_found;
  leases += o.leases;
  lease_checks += o.lease_checks;
  served_over_steps += o.served_over_steps;
  kills += o.kills;
  leaves += o.leaves;
  stops += o.stops;
  partitions += o.partitions;
  superseded += o.superseded;
  drained += o.drained;
  dirty_failures += o.dirty_failures;
  refused_dirty += o.refused_dirty;
  network_reads += o.network_reads;
  network_failures += o.network_failures;
  announced += o.announced;
  read_ahead += o.read_ahead;
  relayed += o.relayed;
  messages += o.messages;
  events += o.events;
}

std::string Coverage::text() const {
  std::string out;
  const auto say = [&](const char* name, std::uint64_t value) {
    out += (out.empty() ? "" : " ") + std::string(name) + "=" + std::to_string(value);
  };
  say("commits", commits);
  say("receivers_evicted", receivers_evicted);
  say("sources_evicted", sources_evicted);
  say("rejoins", rejoins);
  say("catch_ups", catch_ups);
  say("demotions", demotions);
  say("grants_void", grants_void);
  say("rounds_aborted", rounds_aborted);
  say("new_runs", new_runs);
  say("verdicts", verdicts);
  say("void_verdicts", void_verdicts);
  say("captures", captures);
  say("stalls", stalls);
  say("locked_slots", locked_slots);
  say("stale_slots", stale_slots);
  say("corruptions", corruptions);
  say("corruptions_found", corruptions_found);
  say("leases", leases);
  say("lease_checks", lease_checks);
  say("served_over_steps", served_over_steps);
  say("kills", kills);
  say("leaves", leaves);
  say("stops", stops);
  say("partitions", partitions);
  say("superseded", superseded);
  say("drained", drained);
  say("dirty_failures", dirty_failures);
  say("refused_dirty", refused_dirty);
  say("network_reads", network_reads);
  say("network_failures", network_failures);
  say("announced", announced);
  say("read ahead", read_ahead);
  say("relayed", relayed);
  say("messages", messages);
  say("events", events);
  return out;
}

void Truth::fail(const std::string& rule, const std::string& what) {
  if (failed()) return;
  rule_ = rule;
  what_ = what;
}

void Truth::point_captured(const std::string& object, std::uint64_t generation,
                           Snapshot snapshot) {
  ++coverage.captures;
  snapshots_.insert_or_assign({object, generation}, std::move(snapshot));
}

void Truth::coordinator_shown(const JobStatus& picture) {
  std::uint32_t in_round = 0;
  for (const JobStatus::Engine& engine : picture.engines) {
    if (engine.state == EngineState::kInRound) ++in_round;
    if (engine.staleness > picture.published || engine.bringing > picture.published) {
      fail("status", engine.name + " is shown with a version that was never published");
    }
    if (engine.state == EngineState::kCurrent && engine.serving.number < picture.committed) {
      fail("status", engine.name + " is shown as current, but is not");
    }
  }
  const std::uint32_t of_round = picture.round ? picture.round->engines : 0;
  if (in_round > of_round || (picture.round && picture.round->staged > of_round)) {
    fail("status", "a round is shown without all of its engines");
  }
  if (picture.waiting_for.empty()) fail("status", "nothing is said to be waited for");
}

void Truth::coordinator_said(const Run& run, std::uint64_t committed, bool all_ranks,
                             const std::vector<protocol::Outgoing>& messages) {
  RunRecord& record = runs_[run];
  if (committed < record.committed) {
    fail("2 never back", "the coordinator of run " + to_string(run) + " took back a commit");
  }
  if (committed > record.committed) {
    record.committed = committed;
    commits_.insert(Version{run, committed});
    ++coverage.commits;
  }
  check_dirty(run, all_ranks, messages);
  std::optional<std::vector<std::uint64_t>> keep;
  for (const protocol::Outgoing& out : messages) {
    const protocol::Member& to = out.message.member;
    if (const auto* prepare = std::get_if<protocol::Prepare>(&out.message.body)) {
      check_prepare(run, record, to, committed, *prepare);
    } else if (const auto* source = std::get_if<protocol::SourceOrders>(&out.message.body)) {
      keep = source->keep;
      if (source->keep.size() > most_kept_) {
        fail("5 bounded", std::to_string(source->keep.size()) + " versions are kept at once");
      }
    } else if (const auto* orders = std::get_if<protocol::ReceiverOrders>(&out.message.body)) {
      check_orders(run, record, to, *orders, keep);
    } else if (const auto* verdict = std::get_if<protocol::Verdict>(&out.message.body)) {
      check_verdict(record, *verdict);
    }
  }
}

void Truth::check_dirty(const Run& run, bool all_ranks, const std::vector<protocol::Outgoing>& messages) {
  std::set<std::string> let_go;
  for (const protocol::Outgoing& out : messages) {
    const auto* orders = std::get_if<protocol::ReceiverOrders>(&out.message.body);
    if (orders == nullptr || orders->order != protocol::Order::kCommit) continue;
    const protocol::Member& to = out.message.member;
    if (!is_in_place(to)) continue;
    // Who is broken has nothing to lose, and is let go whenever it can be.
    const bool broken = in_place_.at(to.name).broken;
    const auto [known, first] = let_go_broken_.try_emplace({run, orders->attempt}, broken);
    if (first && !broken && !all_ranks) {
      fail("dirty", to.name + " is let go although a rank is away that its bytes come from");
    }
    if (!known->second) let_go.insert(to.name);
  }
  if (let_go.size() > max_dirty_) {
    fail("dirty", std::to_string(let_go.size()) + " engines in place are let go at once, of at most " +
                      std::to_string(max_dirty_));
  }
}

void Truth::check_prepare(const Run& run, RunRecord& record, const protocol::Member& to,
                          std::uint64_t committed, const protocol::Prepare& prepare) {
  record.attempts.try_emplace(
      prepare.attempt,
      Attempt{to.name, to.incarnation, prepare.number, prepare.number > committed,
              !prepare.relay.empty()});
  const auto [known, first] = record.manifests.try_emplace(prepare.number, prepare.manifest);
  if (!first) {
    if (known->second == prepare.manifest) return;
    if (record.committed >= prepare.number) {
      fail("1 no mix", "version " + std::to_string(prepare.number) + " has two manifests");
      return;
    }
    // Its round was aborted and the point was taken again: what was staged of it counts no more.
    known->second = prepare.manifest;
    std::erase_if(staged_, [&](const auto& entry) {
      return std::get<2>(entry) == Version{run, prepare.number};
    });
  }
  if (prepare.manifest.shares.size() != ranks_) {
    fail("1 no mix", "version " + std::to_string(prepare.number) + " has " +
                         std::to_string(prepare.manifest.shares.size()) + " shares of " +
                         std::to_string(ranks_) + " ranks");
    return;
  }
  const Snapshot* common = nullptr;
  for (const plan::Share& share : prepare.manifest.shares) {
    const auto found = snapshots_.find({share.object, share.generation});
    if (found == snapshots_.end()) {
      fail("1 no mix", "version " + std::to_string(prepare.number) + " names " + share.object +
                           ", which no publish point wrote");
      return;
    }
    const Snapshot& snapshot = found->second;
    if (snapshot.rank != share.rank || snapshot.version != Version{run, prepare.number}) {
      fail("1 no mix", "version " + std::to_string(prepare.number) + ", rank " +
                           std::to_string(share.rank) + ": captured at " +
                           to_string(snapshot.version));
      return;
    }
    if (common == nullptr) common = &snapshot;
    if (snapshot.step && common->step && snapshot.launch == common->launch &&
        *snapshot.step != *common->step) {
      fail("1 no mix", "version " + std::to_string(prepare.number) + ": rank " +
                           std::to_string(share.rank) + " had taken step " +
                           std::to_string(*snapshot.step) + ", rank 0 step " +
                           std::to_string(*common->step));
      return;
    }
  }
}

void Truth::check_orders(const Run& run, const RunRecord& record, const protocol::Member& to,
                         const protocol::ReceiverOrders& orders,
                         const std::optional<std::vector<std::uint64_t>>& keep) {
  const auto attempt = record.attempts.find(orders.attempt);
  if (attempt == record.attempts.end()) {
    if (orders.order == protocol::Order::kHold || orders.order == protocol::Order::kCommit) {
      fail("commit", "attempt " + std::to_string(orders.attempt) + " was never prepared");
    }
    return;
  }
  const std::uint64_t number = attempt->second.number;
  if (orders.order != protocol::Order::kHold && orders.order != protocol::Order::kCommit) return;
  const bool reads = orders.order == protocol::Order::kHold || is_in_place(to);
  if (keep && reads && !attempt->second.relayed &&
      std::find(keep->begin(), keep->end(), number) == keep->end()) {
    fail("pinned", to.name + " is to take in version " + std::to_string(number) +
                       ", which no source is told to keep");
  }
  const bool has_staged = staged_.contains({to.name, to.incarnation, Version{run, number}});
  if (orders.order == protocol::Order::kCommit) {
    if (!has_staged) {
      fail("commit", "version " + std::to_string(number) + " is committed, but " + to.name +
                         " has not staged it");
    }
  } else if (attempt->second.before_commit && orders.committed >= number && !has_staged) {
    fail("commit", "version " + std::to_string(number) + " is committed while " + to.name +
                       " still stages it in the round");
  }
}

void Truth::check_verdict(RunRecord& record, const protocol::Verdict& verdict) {
  if (verdict.number == 0) {
    ++coverage.void_verdicts;
    return;
  }
  ++coverage.verdicts;
  const auto [known, first] =
      record.verdicts.try_emplace(verdict.number, verdict.applied, verdict.lost);
  if (!first && known->second != std::pair(verdict.applied, verdict.lost)) {
    fail("verdict", "two verdicts about version " + std::to_string(verdict.number));
  }
}

void Truth::staged(const std::string& name, std::uint64_t incarnation, const Version& version) {
  staged_.emplace(name, incarnation, version);
}

void Truth::switched(const std::string& name, const Version& before, const Version& version,
                     const Run& newest_run) {
  if (version < before) {
    fail("2 never back", name + " served " + to_string(before) + " and now " + to_string(version));
  }
  if (version.run < newest_run) {
    fail("2 never back", name + " obeys run " + to_string(version.run) + " after run " +
                             to_string(newest_run));
  }
  if (!commits_.contains(version)) {
    fail("commit", name + " serves " + to_string(version) + ", which was never committed");
  }
}

void Truth::check_share(const std::string& reader, const Version& version,
                        const plan::Share& share, const std::vector<Word>& words) {
  const auto found = snapshots_.find({share.object, share.generation});
  if (found == snapshots_.end()) {
    fail("1 no mix", reader + " serves " + share.object + ", which no publish point wrote");
    return;
  }
  const Snapshot& snapshot = found->second;
  if (snapshot.version != version || snapshot.rank != share.rank) {
    fail("1 no mix", reader + " serves " + to_string(snapshot.version) + " of rank " +
                         std::to_string(snapshot.rank) + " as " + to_string(version));
    return;
  }
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] == snapshot.words[i]) continue;
    fail("1 no mix", reader + ", version " + to_string(version) + ", rank " +
                         std::to_string(share.rank) + ", word " + std::to_string(i) +
                         ": expected step " + std::to_string(snapshot.words[i] >> 8) +
                         ", found step " + std::to_string(words[i] >> 8));
    return;
  }
}

}  // namespace weightcast::simulation
