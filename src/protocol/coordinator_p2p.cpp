// The coordinator's mode p2p: each receiver takes the newest version in at its own pace, from whoever
// holds it and has room to serve it.
#include <algorithm>

#include "protocol/coordinator.hpp"

namespace weightcast::protocol {
namespace {
constexpr std::uint32_t kFailuresToBeLost = 2;
constexpr std::size_t kMostLost = 1024;  ///< names that are remembered for verdicts
}  // namespace

bool Coordinator::is_relay_of(const ReceiverMember& receiver, std::uint64_t number) const {
  return !receiver.relay_endpoint.empty() && !receiver.in_place &&
         receiver.state.serving == Version{config_.run, number};
}

/// The sources hold `slots` versions: one is being written, one is the newest. The others bound how
/// many different ones may be read at a time.
bool Coordinator::may_be_wanted(std::uint64_t number) const {
  std::set<std::uint64_t> read{number};
  for (const auto& [name, receiver] : receivers_) {
    if (!receiver.assignment || !receiver.assignment->relay.empty()) continue;
    if (receiver.assignment->stage == Stage::kPreparing || receiver.in_place) {
      read.insert(receiver.assignment->number);
    }
  }
  return read.size() <= std::max<std::size_t>(1, config_.slots > 2 ? config_.slots - 2 : 1);
}

Coordinator::Holder Coordinator::choose_holder(const ReceiverMember& receiver) const {
  // On the sources' host, slots are mapped: that costs nobody anything.
  if (!receiver.over_network) return {true, nullptr};
  std::uint32_t from_sources = 0;
  std::map<std::string_view, std::uint32_t> from_relays;
  for (const auto& [name, other] : receivers_) {
    if (!other.assignment || other.assignment->stage != Stage::kPreparing) continue;
    if (!other.assignment->relay.empty()) {
      ++from_relays[other.assignment->relay];
    } else if (other.over_network) {
      ++from_sources;
    }
  }
  const ReceiverMember* best = nullptr;
  std::uint32_t least = config_.fan_out;
  bool any = false;
  for (const auto& [name, other] : receivers_) {
    if (&other == &receiver || name == receiver.bad_relay) continue;
    if (!is_relay_of(other, committed_)) {
      // About to switch to it: soon it serves it.
      any = any || (!other.relay_endpoint.empty() && !other.in_place && other.assignment &&
                    other.assignment->number == committed_ &&
                    other.assignment->stage != Stage::kPreparing);
      continue;
    }
    any = true;
    if (const std::uint32_t load = from_relays[name]; load < least) {
      best = &other;
      least = load;
    }
  }
  if (best != nullptr) return {true, best};
  // Where engines hold it the sources need not send it again, but for one whom an engine failed.
  const bool spared = any && receiver.bad_relay.empty();
  return {!spared && from_sources < config_.fan_out, nullptr};
}

void Coordinator::consider_paces(Clock::time_point now) {
  if (committed_ == 0 || !versions_.contains(committed_)) return;
  std::vector<ReceiverMember*> behind;
  for (auto& [name, receiver] : receivers_) {
    if (receiver.assignment || now < receiver.retry_at || receiver.state.lagging) continue;
    const Version& serving = receiver.state.serving;
    if (serving.run == config_.run && serving.number >= committed_) continue;
    behind.push_back(&receiver);
  }
  // The most stale first, so that nobody waits for ever behind others that are served anew.
  std::stable_sort(behind.begin(), behind.end(), [](const auto* x, const auto* y) {
    return x->state.serving < y->state.serving;
  });
  for (ReceiverMember* receiver : behind) {
    const Holder holder = choose_holder(*receiver);
    if (!holder.found) continue;
    if (holder.relay == nullptr && !may_be_wanted(committed_)) continue;
    assign(now, *receiver, committed_, false, holder.relay);
  }
}

void Coordinator::note_lost(const std::string& name) {
  if (!config_.p2p || committed_ == 0) return;
  lost_[name] = committed_;
  if (lost_.size() <= kMostLost) return;
  const auto oldest = std::min_element(lost_.begin(), lost_.end(), [](const auto& x, const auto& y) {
    return x.second < y.second;
  });
  lost_.erase(oldest);
}

void Coordinator::note_applied(std::uint64_t number) {
  const auto version = versions_.find(number);
  counters_.last_applied = number;
  counters_.last_captured_at_ns = version == versions_.end() ? 0 : version->second.captured_at_ns;
}

void Coordinator::note_spread() {
  if (spread_noted_ == committed_) return;
  for (const auto& [name, receiver] : receivers_) {
    const Version& serving = receiver.state.serving;
    if (serving.run != config_.run || serving.number < committed_) return;
  }
  spread_noted_ = committed_;
  note_applied(committed_);
  note(false, "version_applied",
       {{"version", committed_},
        {"receivers", receivers_.size()},
        {"lost", 0},
        {"publish_to_applied_us", counters_.last_apply_ns / 1000}});
}

bool Coordinator::answer_from_paces(const FlushRequest& flush, Verdict& answer) {
  if (verdict_ && verdict_->number >= flush.point) {
    answer = *verdict_;
    return true;
  }
  if (flush.point > committed_) {
    // Void, unless it is still being captured.
    return !(grant_ && grant_->open && grant_->ordinal == flush.grant_ordinal);
  }
  std::set<std::string> lost;
  for (const auto& [name, newest] : lost_) {
    if (newest >= flush.point) lost.insert(name);
  }
  Verdict verdict;
  verdict.number = flush.point;
  for (const auto& [name, receiver] : receivers_) {
    const Version& serving = receiver.state.serving;
    if (serving.run == config_.run && serving.number >= flush.point) {
      verdict.applied.push_back(name);
    } else if (receiver.state.lagging || receiver.catch_up_failures >= kFailuresToBeLost) {
      lost.insert(name);
    } else if (receiver.joined_after < flush.point) {
      return false;  // it is on its way
    }
  }
  verdict.lost.assign(lost.begin(), lost.end());
  verdict.min_receivers = config_.min_receivers;
  const bool enough = verdict.applied.size() >= config_.min_receivers;
  if (!enough && verdict.lost.empty()) return false;  // its caller's deadline decides
  std::erase_if(lost_, [&](const auto& entry) { return entry.second < flush.point; });
  verdict_ = verdict;
  answer = std::move(verdict);
  return true;
}

}  // namespace weightcast::protocol
