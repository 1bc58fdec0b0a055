// The collective parts: ranks as threads over a real TCPStore.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "example_segment.hpp"
#include "policy.hpp"
#include "ppo.hpp"
#include "proof.hpp"
#include "rank_group.hpp"

namespace rl_loop {
namespace {

using namespace std::chrono_literals;

// Runs body(group) as each of `world_size` ranks.
template <class Body>
void as_ranks(int world_size, const Body& body) {
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  const auto server = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.emplace_back([&, rank] {
      c10d::TCPStoreOptions mine;
      mine.port = server->getPort();
      RankGroup group(c10::make_intrusive<c10d::TCPStore>("127.0.0.1", mine), rank, world_size,
                      20s);
      body(group);
    });
  }
}

TEST(RankGroupTest, AveragesToTheSameBitsOnAllRanks) {
  std::vector<std::vector<float>> results(3);

  as_ranks(3, [&](RankGroup& group) {
    const auto rank = static_cast<float>(group.rank());
    std::vector<float> values;
    // More rounds than one, so that keys of old rounds are deleted along the way.
    for (int round = 0; round < 5; ++round) {
      values = {0.1F + rank, 3.0F * rank, static_cast<float>(round)};
      group.average(values);
    }
    results[static_cast<std::size_t>(group.rank())] = values;
  });

  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  EXPECT_NEAR(results[0][0], 1.1F, 1e-6F);
  EXPECT_NEAR(results[0][1], 3.0F, 1e-6F);
  EXPECT_NEAR(results[0][2], 4.0F, 1e-6F);
}

TEST(RankGroupTest, ExchangesBytesInTheOrderOfTheRanks) {
  std::vector<std::vector<std::vector<std::uint8_t>>> results(2);

  as_ranks(2, [&](RankGroup& group) {
    const std::vector<std::uint8_t> mine(static_cast<std::size_t>(group.rank() + 1), 7);
    results[static_cast<std::size_t>(group.rank())] = group.exchange(mine);
  });

  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0][0], (std::vector<std::uint8_t>{7}));
  EXPECT_EQ(results[0][1], (std::vector<std::uint8_t>{7, 7}));
}

TEST(RankGroupTest, FailsWhereARankDoesNotCome) {
  c10d::TCPStoreOptions options;
  options.port = 0;
  options.isServer = true;
  options.waitWorkers = false;
  RankGroup group(c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options), 0, 2, 50ms);
  std::vector<float> values{1.0F};

  EXPECT_ANY_THROW(group.average(values));
}

PpoOptions quick_options() {
  PpoOptions options;
  options.epochs = 2;
  options.minibatch = 8;
  return options;
}

TEST(PpoTest, KeepsReplicasEqualThoughTheirDataDiffer) {
  std::vector<std::uint64_t> before(2);
  std::vector<std::uint64_t> after(2);
  std::vector<std::shared_ptr<PolicyImpl>> policies;
  for (int rank = 0; rank < 2; ++rank) {
    torch::manual_seed(3);
    policies.push_back(std::make_shared<PolicyImpl>());
  }

  as_ranks(2, [&](RankGroup& group) {
    const auto rank = static_cast<std::size_t>(group.rank());
    const auto& policy = policies[rank];
    before[rank] = hash_tensors(*policy);
    torch::optim::Adam optimizer(policy->parameters());
    Ppo ppo(quick_options(), policy, optimizer, group, rank);
    Segment segment = example_segment({1, 1}, 8, 4);
    for (float& state : segment.states) state *= static_cast<float>(rank + 1);
    ppo.update({&segment, 1});
    after[rank] = hash_tensors(*policy);
  });

  EXPECT_EQ(before[0], before[1]);
  EXPECT_EQ(after[0], after[1]);
  EXPECT_NE(before[0], after[0]);
}

TEST(PpoTest, RepeatsItselfGivenSeedAndSegments) {
  const auto train = [] {
    torch::manual_seed(5);
    auto policy = std::make_shared<PolicyImpl>();
    torch::optim::Adam optimizer(policy->parameters());
    RankGroup alone(nullptr, 0, 1, 1s);
    Ppo ppo(quick_options(), policy, optimizer, alone, 9);
    const std::vector<Segment> segments{example_segment({1, 1}, 8, 4),
                                        example_segment({1, 2}, 8, 4)};
    ppo.update(segments);
    ppo.update(segments);
    return hash_tensors(*policy);
  };

  EXPECT_EQ(train(), train());
}

TEST(PpoTest, MakesWhatWasBetterThanExpectedMoreLikely) {
  torch::manual_seed(1);
  auto policy = std::make_shared<PolicyImpl>();
  torch::optim::Adam optimizer(policy->parameters());
  RankGroup alone(nullptr, 0, 1, 1s);
  Ppo ppo(quick_options(), policy, optimizer, alone, 1);
  Segment segment = example_segment({1, 1}, 16, 4);
  std::fill(segment.terminated.begin(), segment.terminated.end(), std::uint8_t{1});
  std::fill(segment.states.begin(), segment.states.end(), 0.02F);
  std::fill(segment.log_probs.begin(), segment.log_probs.end(), -0.6931F);
  // Action 1 is rewarded, action 0 is not.
  for (std::size_t i = 0; i < segment.transitions(); ++i) segment.rewards[i] = segment.actions[i];
  const torch::Tensor state = torch::full({1, 4}, 0.02);
  const auto preference = [&] {
    const torch::NoGradGuard no_grad;
    const torch::Tensor logits = policy->forward(state);
    return (logits[0][1] - logits[0][0]).item<float>();
  };
  const float before = preference();

  for (int i = 0; i < 5; ++i) ppo.update({&segment, 1});

  EXPECT_GT(preference(), before + 0.05F);
}

TEST(ProofTest, HashesNamesShapesAndBytes) {
  torch::manual_seed(1);
  PolicyImpl policy;
  const std::uint64_t before = hash_tensors(policy);
  const torch::NoGradGuard no_grad;

  policy.parameters()[0].flatten()[0] += 1.0F;
  const std::uint64_t changed = hash_tensors(policy);
  policy.register_buffer("extra", torch::zeros({1}));
  const std::uint64_t with_buffer = hash_tensors(policy);

  EXPECT_NE(before, changed);
  EXPECT_NE(changed, with_buffer);
  EXPECT_EQ(with_buffer, hash_tensors(policy));
}

}  // namespace
}  // namespace rl_loop
