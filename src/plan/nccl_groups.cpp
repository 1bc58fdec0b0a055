#include "plan/nccl_groups.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "plan/manifest.hpp"

namespace weightcast::plan {
namespace {

/// The GPUs by which a host (or, within hosts, a GPU) takes part: a member for each device, the first
/// one of those that share it.
struct Site {
  std::string name;
  std::vector<std::uint32_t> leaders;  ///< indexes of sources or receivers, a device each
  std::vector<std::uint32_t> all;
};

template <class Member>
std::vector<Site> sites_of(const std::vector<Member>& members, bool within_hosts) {
  std::map<std::string, Site> by_name;
  std::set<std::pair<std::string, std::string>> seen;
  for (std::uint32_t i = 0; i < members.size(); ++i) {
    const Member& member = members[i];
    const std::string name = within_hosts ? member.host + " " + member.device : member.host;
    Site& site = by_name[name];
    site.name = name;
    site.all.push_back(i);
    if (seen.emplace(member.host, member.device).second) site.leaders.push_back(i);
  }
  std::vector<Site> sites;
  sites.reserve(by_name.size());
  for (auto& [name, site] : by_name) sites.push_back(std::move(site));
  return sites;
}

Status check(const NcclFacts& facts) {
  const auto invalid = [](std::string what) {
    return Status(Code::kInvalid, std::move(what));
  };
  if (facts.bucket_bytes == 0 || facts.bucket_bytes % kAlignment != 0) {
    return invalid("expected buckets of a multiple of " + std::to_string(kAlignment) +
                   " bytes, got " + std::to_string(facts.bucket_bytes));
  }
  if (facts.max_communicators == 0 || facts.buckets_in_memory == 0) {
    return invalid("expected at least one communicator and one bucket in memory");
  }
  std::set<std::uint32_t> ranks;
  for (const NcclSource& source : facts.sources) {
    const std::string who = "source " + std::to_string(source.rank);
    if (!ranks.insert(source.rank).second) return invalid(who + " is there twice");
    if (source.host.empty() || source.device.empty()) {
      return invalid(who + " does not say its host and device: NCCL needs both");
    }
  }
  std::set<std::string> names;
  for (const NcclReceiver& receiver : facts.receivers) {
    const std::string who = "receiver '" + receiver.name + "'";
    if (!names.insert(receiver.name).second) return invalid(who + " is there twice");
    if (receiver.host.empty() || receiver.device.empty()) {
      return invalid(who + " does not say its host and device: NCCL needs both");
    }
  }
  return Status::ok();
}

class GroupPlanner {
 public:
  GroupPlanner(const NcclFacts& facts, NcclPlan& plan)
      : facts_(facts),
        plan_(plan),
        senders_(sites_of(plan.sources, facts.within_hosts)),
        receivers_(sites_of(plan.receivers, facts.within_hosts)) {}

  void run() {
    plan_.by_receiver.resize(plan_.receivers.size());
    cut_buckets();
    if (plan_.sources.empty() || plan_.receivers.empty()) return;
    leave_out_local();
    if (facts_.mode == NcclMode::kBroadcast) {
      broadcast();
    } else {
      pair();
    }
    for (NcclReceiverPlan& its : plan_.by_receiver) {
      if (its.routes.empty() && its.why_not.empty()) its.why_not = "other hosts have nothing for it";
    }
    if (!plan_.groups.empty()) {
      plan_.registered_bytes = facts_.bucket_bytes * facts_.buckets_in_memory;
    }
  }

 private:
  /// For each sending site its buckets, which go round its sources.
  void cut_buckets() {
    of_sender_.resize(senders_.size());
    for (std::size_t site = 0; site < senders_.size(); ++site) {
      bool some = true;
      for (std::uint64_t offset = 0; some; offset += facts_.bucket_bytes) {
        some = false;
        for (std::uint32_t source : senders_[site].all) {
          const std::uint64_t all = plan_.sources[source].payload_bytes;
          if (offset >= all) continue;
          some = true;
          of_sender_[site].push_back(static_cast<std::uint32_t>(plan_.buckets.size()));
          plan_.buckets.push_back({source, offset, std::min(facts_.bucket_bytes, all - offset)});
        }
      }
    }
  }

  /// Sites where all of the sources are need no wire.
  void leave_out_local() {
    if (senders_.size() != 1) return;
    std::erase_if(receivers_, [&](const Site& site) {
      if (site.name != senders_[0].name) return false;
      refuse(site, "every source is on its host, which is read without NCCL");
      return true;
    });
  }

  void refuse(const Site& site, const std::string& why) {
    for (std::uint32_t receiver : site.all) {
      plan_.by_receiver[receiver].routes.clear();
      plan_.by_receiver[receiver].why_not = why;
    }
  }

  static std::uint32_t leader(const Site& site, std::size_t index) {
    return site.leaders[index % site.leaders.size()];
  }

  /// How many communicators it is worth to have: a GPU of each host for each, or senders for each.
  std::size_t stripes() const {
    std::size_t gpus = senders_[0].leaders.size();
    for (const Site& site : senders_) gpus = std::min(gpus, site.leaders.size());
    for (const Site& site : receivers_) gpus = std::min(gpus, site.leaders.size());
    return std::min<std::size_t>(facts_.max_communicators, std::max(gpus, senders_.size()));
  }

  /// A GPU of the site that is in the group not yet as a sender's.
  const std::uint32_t* free_leader(const Site& site, std::size_t stripe,
                                   const std::set<std::string>& taken) const {
    for (std::size_t i = 0; i < site.leaders.size(); ++i) {
      const std::uint32_t& candidate = site.leaders[(stripe + i) % site.leaders.size()];
      const NcclReceiver& receiver = plan_.receivers[candidate];
      if (!taken.contains(receiver.host + " " + receiver.device)) return &candidate;
    }
    return nullptr;
  }

  void broadcast() {
    const std::size_t count = receivers_.empty() ? 0 : stripes();
    std::vector<std::vector<std::size_t>> sites(count);  // of each stripe's senders
    for (std::size_t site = 0; site < std::max(count, senders_.size()) && count > 0; ++site) {
      sites[site % count].push_back(site % senders_.size());
    }
    std::vector<std::set<std::string>> taken(count);
    for (std::size_t stripe = 0; stripe < count; ++stripe) {
      for (std::size_t site : sites[stripe]) {
        const NcclSource& source = plan_.sources[leader(senders_[site], stripe)];
        taken[stripe].insert(source.host + " " + source.device);
      }
    }
    // A site that cannot be in all stripes is in none: it would miss bytes.
    std::erase_if(receivers_, [&](const Site& site) {
      for (const auto& devices : taken) {
        if (free_leader(site, 0, devices) != nullptr) continue;
        refuse(site, "its GPUs are those by which sources of its host send, and NCCL takes a GPU "
                     "once");
        return true;
      }
      return false;
    });
    if (receivers_.empty()) return;
    std::vector<std::vector<NcclOp>> ops(count);
    for (std::size_t stripe = 0; stripe < count; ++stripe) {
      const auto group = static_cast<std::uint32_t>(plan_.groups.size());
      plan_.groups.emplace_back();
      std::vector<std::vector<std::uint32_t>> queues;  // of each sender
      for (std::size_t site : sites[stripe]) {
        plan_.groups.back().members.push_back({true, leader(senders_[site], stripe)});
        queues.push_back(part_of(site, stripe, count));
      }
      for (const Site& site : receivers_) {
        const std::uint32_t chosen = *free_leader(site, stripe, taken[stripe]);
        plan_.groups.back().members.push_back({false, chosen});
        route(site, group, chosen);
      }
      ops[stripe] = in_turn(queues, [&](std::size_t sender, std::uint32_t bucket) {
        return NcclOp{bucket, group, static_cast<std::uint32_t>(sender), kToAll};
      });
    }
    plan_.ops = in_turn(ops, [](std::size_t, const NcclOp& op) { return op; });
  }

  /// What of a sending site's buckets goes through a stripe.
  std::vector<std::uint32_t> part_of(std::size_t site, std::size_t stripe, std::size_t count) const {
    const std::vector<std::uint32_t>& all = of_sender_[site];
    if (senders_.size() >= count) return all;
    // Stripes site, site + senders, site + 2 senders, ... are this site's.
    const std::size_t shares = (count - site + senders_.size() - 1) / senders_.size();
    std::vector<std::uint32_t> part;
    for (std::size_t i = stripe / senders_.size(); i < all.size(); i += shares) {
      part.push_back(all[i]);
    }
    return part;
  }

  struct Pair {
    std::size_t sender = 0;
    std::size_t receiver = 0;
    NcclGroup group;
  };

  /// All pairs, going round so that nobody comes twice before all have come, each in the first wave
  /// in which both of its GPUs are free.
  std::vector<Pair> pairs() const {
    std::vector<Pair> all;
    std::map<std::string, std::uint32_t> free_at;  // by GPU: the next wave
    const std::size_t count = std::max(senders_.size(), receivers_.size());
    for (std::size_t turn = 0; turn < count; ++turn) {
      for (std::size_t sender = 0; sender < senders_.size(); ++sender) {
        const std::size_t receiver = (sender + turn) % count;
        if (receiver >= receivers_.size() || of_sender_[sender].empty()) continue;
        if (senders_[sender].name == receivers_[receiver].name) continue;
        const std::uint32_t from = leader(senders_[sender], receiver);
        const std::uint32_t to = leader(receivers_[receiver], sender);
        std::uint32_t& from_at = free_at[plan_.sources[from].host + " " + plan_.sources[from].device];
        std::uint32_t& to_at = free_at[plan_.receivers[to].host + " " + plan_.receivers[to].device];
        const std::uint32_t wave = std::max(from_at, to_at);
        from_at = to_at = wave + 1;
        all.push_back({sender, receiver, {{{true, from}, {false, to}}, wave}});
      }
    }
    std::stable_sort(all.begin(), all.end(), [](const Pair& a, const Pair& b) {
      return a.group.wave < b.group.wave;
    });
    return all;
  }

  void pair() {
    const std::vector<Pair> all = pairs();
    for (std::size_t i = 0; i < all.size();) {
      std::vector<std::vector<NcclOp>> ops;
      for (const std::uint32_t wave = all[i].group.wave;
           i < all.size() && all[i].group.wave == wave; ++i) {
        const auto group = static_cast<std::uint32_t>(plan_.groups.size());
        plan_.groups.push_back(all[i].group);
        route(receivers_[all[i].receiver], group, all[i].group.members[1].index);
        ops.emplace_back();
        for (const std::uint32_t bucket : of_sender_[all[i].sender]) {
          ops.back().push_back({bucket, group, 0, 1});
        }
      }
      const auto wave_ops = in_turn(ops, [](std::size_t, const NcclOp& op) { return op; });
      plan_.ops.insert(plan_.ops.end(), wave_ops.begin(), wave_ops.end());
    }
  }

  void route(const Site& site, std::uint32_t group, std::uint32_t chosen) {
    for (std::uint32_t receiver : site.all) {
      plan_.by_receiver[receiver].routes.push_back({group, chosen});
    }
  }

  /// The first of each queue, then the second of each, ...
  template <class Item, class Make>
  static std::vector<NcclOp> in_turn(const std::vector<std::vector<Item>>& queues, Make make) {
    std::size_t longest = 0;
    for (const auto& queue : queues) longest = std::max(longest, queue.size());
    std::vector<NcclOp> all;
    for (std::size_t i = 0; i < longest; ++i) {
      for (std::size_t q = 0; q < queues.size(); ++q) {
        if (i < queues[q].size()) all.push_back(make(q, queues[q][i]));
      }
    }
    return all;
  }

  const NcclFacts& facts_;
  NcclPlan& plan_;
  std::vector<Site> senders_;
  std::vector<Site> receivers_;
  std::vector<std::vector<std::uint32_t>> of_sender_;  ///< buckets
};

class Fnv {
 public:
  void add(std::string_view text) {
    add(text.size());
    for (const char c : text) step(static_cast<unsigned char>(c));
  }
  void add(std::uint64_t number) {
    for (int i = 0; i < 8; ++i) step(static_cast<unsigned char>(number >> (8 * i)));
  }
  std::uint64_t value() const noexcept { return hash_; }

 private:
  void step(unsigned char byte) { hash_ = (hash_ ^ byte) * 0x100000001b3u; }
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace

Result<NcclPlan> plan_nccl(const NcclFacts& facts) {
  if (Status s = check(facts); !s) return s;
  NcclPlan plan;
  plan.sources = facts.sources;
  plan.receivers = facts.receivers;
  std::sort(plan.sources.begin(), plan.sources.end(),
            [](const NcclSource& a, const NcclSource& b) { return a.rank < b.rank; });
  std::sort(plan.receivers.begin(), plan.receivers.end(),
            [](const NcclReceiver& a, const NcclReceiver& b) { return a.name < b.name; });
  GroupPlanner(facts, plan).run();
  return plan;
}

std::vector<std::uint32_t> ops_of(const NcclPlan& plan, const NcclMember& member) {
  constexpr std::uint32_t kNone = 0xffffffff;
  std::vector<std::uint32_t> rank_in(plan.groups.size(), kNone);
  for (std::size_t group = 0; group < plan.groups.size(); ++group) {
    const auto& members = plan.groups[group].members;
    const auto it = std::find(members.begin(), members.end(), member);
    if (it != members.end()) rank_in[group] = static_cast<std::uint32_t>(it - members.begin());
  }
  std::vector<std::uint32_t> mine;
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    if (rank_in[plan.ops[i].group] != kNone) mine.push_back(static_cast<std::uint32_t>(i));
  }
  return mine;
}

std::uint64_t fingerprint(const NcclPlan& plan) {
  Fnv hash;
  for (const NcclSource& source : plan.sources) {
    hash.add(source.rank);
    hash.add(source.host);
    hash.add(source.device);
    hash.add(source.payload_bytes);
  }
  for (const NcclReceiver& receiver : plan.receivers) {
    hash.add(receiver.name);
    hash.add(receiver.host);
    hash.add(receiver.device);
  }
  for (const NcclGroup& group : plan.groups) {
    hash.add(group.members.size());
    for (const NcclMember& member : group.members) {
      hash.add(member.is_source ? 1 : 0);
      hash.add(member.index);
    }
  }
  for (const NcclOp& op : plan.ops) {
    const NcclBucket& bucket = plan.buckets[op.bucket];
    for (const std::uint64_t part : {std::uint64_t{bucket.source}, bucket.offset, bucket.bytes,
                                     std::uint64_t{op.group}, std::uint64_t{op.from},
                                     std::uint64_t{op.to}}) {
      hash.add(part);
    }
  }
  return hash.value();
}

}  // namespace weightcast::plan
