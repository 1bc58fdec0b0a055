#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <torch/optim/optimizer.h>

#include "policy.hpp"
#include "rank_group.hpp"
#include "segment.hpp"

namespace rl_loop {

struct PpoOptions {
  double learning_rate = 1e-3;
  double final_learning_rate = 1e-4;
  int decay_updates = 100;  ///< Updates over which the rate falls linearly to the final one.
  double discount = 0.99;
  double gae_lambda = 0.95;
  double clip = 0.2;  ///< Of the probability ratio.
  double value_weight = 0.5;
  double entropy_weight = 0.0;
  double max_gradient_norm = 0.5;
  int epochs = 6;
  int minibatch = 256;  ///< Transitions a rank puts into one gradient.
};

/// Means over the minibatches of one update, of this rank's own transitions.
struct PpoStatistics {
  double policy_loss = 0.0;
  double value_loss = 0.0;
  double entropy = 0.0;
  double divergence = 0.0;  ///< Approximate KL divergence from the policies that acted.
};

/// Proximal policy optimization with gradients averaged over the ranks. Given the same segments
/// and seeds, the same bits come out; replicas that start equal stay equal. Not thread-safe.
class Ppo {
 public:
  /// @param optimizer steps the parameters of `policy`.
  /// @param seed of the minibatches' order; ranks may differ.
  Ppo(const PpoOptions& options, std::shared_ptr<PolicyImpl> policy,
      torch::optim::Optimizer& optimizer, RankGroup& ranks, std::uint64_t seed);

  /// One iteration over these segments. Collective: all ranks bring as many transitions.
  PpoStatistics update(std::span<const Segment> segments);

 private:
  struct Batch;
  Batch prepare(std::span<const Segment> segments);
  torch::Tensor loss(const Batch& batch, const torch::Tensor& rows, PpoStatistics& statistics);
  void set_learning_rate();

  PpoOptions options_;
  std::shared_ptr<PolicyImpl> policy_;
  std::vector<torch::Tensor> parameters_;
  torch::optim::Optimizer& optimizer_;
  RankGroup& ranks_;
  std::uint64_t seed_;
  std::int64_t updates_ = 0;
};

}  // namespace rl_loop
