#include "plan/nccl_groups.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace weightcast::plan {
namespace {

constexpr std::uint64_t kGroupMiB = std::uint64_t{1} << 20;

/// `gpus` members a host; hosts are told apart by `kind`.
NcclFacts facts(std::uint32_t sources, std::uint32_t receivers, std::uint32_t gpus = 1) {
  NcclFacts facts;
  for (std::uint32_t i = 0; i < sources; ++i) {
    facts.sources.push_back({i, "trainer" + std::to_string(i / gpus),
                             "GPU-t" + std::to_string(i), 5 * kGroupMiB + 64 * i});
  }
  for (std::uint32_t i = 0; i < receivers; ++i) {
    facts.receivers.push_back({"engine" + std::to_string(1000 + i),
                               "rollout" + std::to_string(i / gpus), "GPU-e" + std::to_string(i)});
  }
  facts.bucket_bytes = kGroupMiB;
  return facts;
}

std::string device_of(const NcclPlan& plan, const NcclMember& member) {
  return member.is_source ? plan.sources[member.index].device : plan.receivers[member.index].device;
}

/// Each GPU takes its operations in the order that `plan` gives, one at a time; one is over when all
/// of its GPUs are at it. @return how many never are
std::size_t stuck(const NcclPlan& plan, const std::vector<std::uint32_t>* swapped = nullptr) {
  std::map<std::string, std::vector<std::uint32_t>> queues;
  std::map<std::string, std::size_t> at;
  for (std::uint32_t g = 0; g < plan.groups.size(); ++g) {
    for (const NcclMember& member : plan.groups[g].members) queues[device_of(plan, member)];
  }
  std::vector<std::vector<std::string>> gpus(plan.groups.size());
  for (std::uint32_t g = 0; g < plan.groups.size(); ++g) {
    for (const NcclMember& m : plan.groups[g].members) gpus[g].push_back(device_of(plan, m));
  }
  for (std::uint32_t i = 0; i < plan.ops.size(); ++i) {
    for (const std::string& gpu : gpus[plan.ops[i].group]) queues[gpu].push_back(i);
  }
  if (swapped != nullptr) {
    auto& queue = queues.begin()->second;
    std::swap(queue.at((*swapped)[0]), queue.at((*swapped)[1]));
  }
  std::size_t left = plan.ops.size();
  // Whoever could come next, again and again.
  std::vector<std::string> ready;
  for (const auto& [gpu, queue] : queues) ready.push_back(gpu);
  while (!ready.empty()) {
    const std::string gpu = ready.back();
    ready.pop_back();
    const auto& queue = queues[gpu];
    if (at[gpu] >= queue.size()) continue;
    const std::uint32_t op = queue[at[gpu]];
    const auto& all = gpus[plan.ops[op].group];
    const bool all_here = std::all_of(all.begin(), all.end(), [&](const std::string& other) {
      const auto& its = queues[other];
      return at[other] < its.size() && its[at[other]] == op;
    });
    if (!all_here) continue;
    for (const std::string& other : all) {
      ++at[other];
      ready.push_back(other);
    }
    --left;
  }
  return left;
}

/// Every byte of every source comes exactly once to every receiver that the plan routes.
void expect_whole(const NcclPlan& plan) {
  std::map<std::uint32_t, std::uint64_t> bytes;  // of a source, in buckets
  std::vector<std::vector<std::uint32_t>> in_group(plan.groups.size());
  for (const NcclBucket& bucket : plan.buckets) {
    EXPECT_EQ(bucket.offset % 64, 0u);
    bytes[bucket.source] += bucket.bytes;
  }
  for (std::uint32_t i = 0; i < plan.sources.size(); ++i) {
    EXPECT_EQ(bytes[i], plan.sources[i].payload_bytes);
  }
  for (const NcclOp& op : plan.ops) in_group[op.group].push_back(op.bucket);
  for (std::uint32_t r = 0; r < plan.receivers.size(); ++r) {
    const NcclReceiverPlan& its = plan.by_receiver[r];
    EXPECT_EQ(its.routes.empty(), !its.why_not.empty());
    if (its.routes.empty()) continue;
    std::vector<std::uint32_t> got;
    for (const NcclRoute& route : its.routes) {
      EXPECT_EQ(plan.receivers[route.leader].host, plan.receivers[r].host);
      const auto& members = plan.groups[route.group].members;
      EXPECT_NE(std::find(members.begin(), members.end(), NcclMember{false, route.leader}),
                members.end());
      for (std::uint32_t bucket : in_group[route.group]) {
        // Sources of its own host are read there.
        got.push_back(bucket);
      }
    }
    for (std::uint32_t b = 0; b < plan.buckets.size(); ++b) {
      const bool is_local = plan.sources[plan.buckets[b].source].host == plan.receivers[r].host;
      const auto times = std::count(got.begin(), got.end(), b);
      EXPECT_TRUE(times == 1 || (is_local && times == 0)) << "bucket " << b << ": " << times;
    }
  }
}

/// @return the most communicators that a GPU is in at a time
std::size_t most_communicators(const NcclPlan& plan, std::uint32_t window) {
  std::map<std::string, std::vector<std::uint32_t>> waves;
  for (const NcclGroup& group : plan.groups) {
    std::set<std::string> devices;
    for (const NcclMember& member : group.members) {
      EXPECT_TRUE(devices.insert(device_of(plan, member)).second) << "a GPU twice in a group";
      waves[device_of(plan, member)].push_back(group.wave);
    }
  }
  std::size_t most = 0;
  for (const auto& [gpu, its] : waves) {
    for (const std::uint32_t last : its) {
      most = std::max(most, static_cast<std::size_t>(
                                std::count_if(its.begin(), its.end(), [&](std::uint32_t wave) {
                                  return wave <= last && wave + window > last;
                                })));
    }
  }
  return most;
}

void expect_sound(const NcclFacts& facts) {
  const auto plan = plan_nccl(facts);
  ASSERT_TRUE(plan) << plan.status().to_string();
  EXPECT_LE(most_communicators(*plan, facts.max_communicators), facts.max_communicators);
  EXPECT_EQ(stuck(*plan), 0u);
  if (!plan->groups.empty()) {
    EXPECT_EQ(plan->registered_bytes, facts.bucket_bytes * facts.buckets_in_memory);
  }
  for (const NcclOp& op : plan->ops) {
    const auto& members = plan->groups[op.group].members;
    ASSERT_LT(op.from, members.size());
    const NcclMember& from = members[op.from];
    ASSERT_TRUE(from.is_source);
    const NcclSource& owner = plan->sources[plan->buckets[op.bucket].source];
    EXPECT_EQ(plan->sources[from.index].host, owner.host) << "sent by who cannot read it";
    EXPECT_EQ(op.to == kToAll, facts.mode == NcclMode::kBroadcast);
  }
}

TEST(NcclGroupsTest, OneSourceAndOneReceiverArePaired) {
  for (const NcclMode mode : {NcclMode::kBroadcast, NcclMode::kP2p}) {
    NcclFacts some = facts(1, 1);
    some.mode = mode;
    expect_sound(some);
    const auto plan = *plan_nccl(some);
    expect_whole(plan);
    ASSERT_EQ(plan.groups.size(), 1u);
    EXPECT_EQ(plan.groups[0].members, (std::vector<NcclMember>{{true, 0}, {false, 0}}));
    EXPECT_EQ(plan.ops.size(), 5u);
    EXPECT_EQ(plan.ops[0].to, mode == NcclMode::kBroadcast ? kToAll : 1u);
  }
}

TEST(NcclGroupsTest, A256By256JobStaysWithinItsBounds) {
  for (const std::uint32_t gpus : {1u, 8u}) {
    for (const NcclMode mode : {NcclMode::kBroadcast, NcclMode::kP2p}) {
      NcclFacts many = facts(256, 256, gpus);
      many.mode = mode;
      SCOPED_TRACE("gpus a host: " + std::to_string(gpus));
      expect_sound(many);
      const auto plan = *plan_nccl(many);
      expect_whole(plan);
      if (mode == NcclMode::kBroadcast) {
        EXPECT_EQ(plan.groups.size(), 4u);
        const std::size_t hosts = 256 / gpus;
        EXPECT_EQ(plan.groups[0].members.size(), hosts / 4 + hosts);
        EXPECT_EQ(most_communicators(plan, 4), gpus == 1 ? 4u : 1u);
      }
    }
  }
}

TEST(NcclGroupsTest, RootsGoRoundTheSendersOfAStripe) {
  NcclFacts some = facts(3, 2);
  some.max_communicators = 1;
  const auto plan = *plan_nccl(some);
  ASSERT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(plan.groups[0].members.size(), 5u);
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_EQ(plan.ops[i].from, i % 3);
}

TEST(NcclGroupsTest, AHostWithSeveralGpusSendsAStripeByEach) {
  const auto plan = *plan_nccl(facts(4, 4, 4));
  expect_whole(plan);
  ASSERT_EQ(plan.groups.size(), 4u);
  for (std::uint32_t g = 0; g < 4; ++g) {
    EXPECT_EQ(plan.groups[g].members, (std::vector<NcclMember>{{true, g}, {false, g}}));
  }
  EXPECT_EQ(most_communicators(plan, 4), 1u);
}

TEST(NcclGroupsTest, OtherEnginesOfAHostFollowItsLeader) {
  NcclFacts some = facts(1, 3, 3);
  const auto plan = *plan_nccl(some);
  ASSERT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(plan.groups[0].members.size(), 2u);
  for (const NcclReceiverPlan& its : plan.by_receiver) {
    EXPECT_EQ(its.routes, (std::vector<NcclRoute>{{0, 0}}));
  }
  // Engines that share a GPU, too.
  some.receivers[1].device = some.receivers[2].device = some.receivers[0].device;
  EXPECT_EQ(plan_nccl(some)->by_receiver[2].routes, (std::vector<NcclRoute>{{0, 0}}));
}

TEST(NcclGroupsTest, TheNextPlanAfterALeadersDeathHasAnother) {
  for (const NcclMode mode : {NcclMode::kBroadcast, NcclMode::kP2p}) {
    NcclFacts some = facts(4, 8, 4);
    some.mode = mode;
    some.max_communicators = 2;
    const auto before = *plan_nccl(some);
    const std::uint32_t dead = before.by_receiver[3].routes[0].leader;
    const std::string name = before.receivers[dead].name;
    std::erase_if(some.receivers, [&](const NcclReceiver& r) { return r.name == name; });
    expect_sound(some);
    const auto after = *plan_nccl(some);
    expect_whole(after);
    EXPECT_NE(fingerprint(before), fingerprint(after));
    EXPECT_EQ(after.receivers.size(), 7u);

    std::erase_if(some.sources, [](const NcclSource& s) { return s.rank == 0; });
    expect_sound(some);
    const auto fewer = *plan_nccl(some);
    for (const NcclGroup& group : fewer.groups) {
      for (const NcclMember& m : group.members) EXPECT_LT(m.index, m.is_source ? 3u : 7u);
    }
  }
}

TEST(NcclGroupsTest, WhatIsOnTheSourcesHostNeedsNoWire) {
  NcclFacts some = facts(2, 2, 2);
  for (NcclReceiver& receiver : some.receivers) receiver.host = "trainer0";
  const auto plan = *plan_nccl(some);
  EXPECT_TRUE(plan.groups.empty());
  EXPECT_EQ(plan.registered_bytes, 0u);
  EXPECT_NE(plan.by_receiver[0].why_not.find("every source is on its host"), std::string::npos);

  some.within_hosts = true;
  expect_sound(some);
  const auto inside = *plan_nccl(some);
  ASSERT_FALSE(inside.groups.empty());
  EXPECT_EQ(inside.by_receiver[0].routes.front().leader, 0u);
  EXPECT_EQ(inside.by_receiver[1].routes.front().leader, 1u);
}

TEST(NcclGroupsTest, AGpuThatSendsIsNotInTheSameGroupAsAReceiver) {
  NcclFacts some = facts(2, 3);  // two hosts of sources
  some.max_communicators = 1;
  some.receivers[0].host = "trainer0";
  some.receivers[0].device = "GPU-t0";
  expect_sound(some);
  const auto plan = *plan_nccl(some);
  EXPECT_TRUE(plan.by_receiver[0].routes.empty());
  EXPECT_NE(plan.by_receiver[0].why_not.find("NCCL takes a GPU once"), std::string::npos);
  EXPECT_FALSE(plan.by_receiver[1].routes.empty());

  some.receivers[1].host = "trainer0";  // another GPU of that host leads
  const auto other = *plan_nccl(some);
  EXPECT_EQ(other.by_receiver[0].routes, (std::vector<NcclRoute>{{0, 1}}));

  some.mode = NcclMode::kP2p;
  expect_sound(some);
}

TEST(NcclGroupsTest, TheOrderOfTheFactsMakesNoDifference) {
  const std::uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (const NcclMode mode : {NcclMode::kBroadcast, NcclMode::kP2p}) {
    NcclFacts some = facts(7, 11, 3);
    some.mode = mode;
    const auto plan = *plan_nccl(some);
    std::shuffle(some.sources.begin(), some.sources.end(), random);
    std::shuffle(some.receivers.begin(), some.receivers.end(), random);
    const auto again = *plan_nccl(some);
    EXPECT_EQ(again.groups, plan.groups);
    EXPECT_EQ(again.ops, plan.ops);
    EXPECT_EQ(again.by_receiver, plan.by_receiver);
    EXPECT_EQ(fingerprint(again), fingerprint(plan));
  }
}

TEST(NcclGroupsTest, OddCountsAreSound) {
  const std::uint32_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const auto number = [&](std::uint32_t least, std::uint32_t most) {
    return std::uniform_int_distribution<std::uint32_t>(least, most)(random);
  };
  for (int i = 0; i < 300; ++i) {
    NcclFacts some = facts(number(1, 13), number(0, 17), number(1, 5));
    some.mode = number(0, 1) == 0 ? NcclMode::kBroadcast : NcclMode::kP2p;
    some.max_communicators = number(1, 4);
    some.within_hosts = number(0, 3) == 0;
    for (NcclSource& source : some.sources) source.payload_bytes = number(0, 5) * (kGroupMiB / 2);
    for (NcclReceiver& receiver : some.receivers) {
      if (number(0, 4) != 0) continue;  // beside a source, on its GPU or on another
      const NcclSource& source = some.sources[number(0, 1000) % some.sources.size()];
      receiver.host = source.host;
      if (number(0, 1) == 0) receiver.device = source.device;
    }
    expect_sound(some);
    expect_whole(*plan_nccl(some));
    if (HasFailure()) return;
  }
}

TEST(NcclGroupsTest, OpsOfAMemberAreItsGroupsInTheOneOrder) {
  const auto plan = *plan_nccl(facts(8, 8, 2));
  std::size_t sum = 0;
  for (const NcclGroup& group : plan.groups) {
    for (const NcclMember& member : group.members) {
      const auto mine = ops_of(plan, member);
      EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
      EXPECT_FALSE(mine.empty());
      sum += mine.size();
    }
  }
  EXPECT_GT(sum, plan.ops.size());
  EXPECT_TRUE(ops_of(plan, {true, 99}).empty());
}

TEST(NcclGroupsTest, TheSimulationSeesAnOrderThatDiffers) {
  const auto plan = *plan_nccl(facts(8, 8, 1));
  EXPECT_EQ(stuck(plan), 0u);
  const std::vector<std::uint32_t> swapped = {0, 1};
  EXPECT_GT(stuck(plan, &swapped), 0u);
}

TEST(NcclGroupsTest, FactsThatContradictThemselvesAreRefused) {
  const auto why = [](const NcclFacts& some) { return plan_nccl(some).status().message(); };
  NcclFacts some = facts(2, 2);
  some.sources[1].rank = 0;
  EXPECT_NE(why(some).find("source 0 is there twice"), std::string::npos);
  some = facts(2, 2);
  some.receivers[1].name = some.receivers[0].name;
  EXPECT_NE(why(some).find("is there twice"), std::string::npos);
  some = facts(1, 1);
  some.receivers[0].device.clear();
  EXPECT_NE(why(some).find("host and device"), std::string::npos);
  some = facts(1, 1);
  some.bucket_bytes = 100;
  EXPECT_NE(why(some).find("multiple of 64"), std::string::npos);
  some = facts(1, 1);
  some.max_communicators = 0;
  EXPECT_EQ(plan_nccl(some).status().code(), Code::kInvalid);
}

}  // namespace
}  // namespace weightcast::plan
