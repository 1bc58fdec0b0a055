#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <torch/optim/optimizer.h>

#include "language_model.hpp"
#include "rank_group.hpp"
#include "sample_batch.hpp"

namespace grpo {

struct GrpoOptions {
  double learning_rate = 6e-4;
  double final_share = 0.1;     ///< Of the learning rate, that is left at the end.
  std::uint64_t updates = 250;  ///< Over which the rate falls linearly to it.
  double clip = 0.2;  ///< Of the probability ratio.
  double kl_weight = 0.0;  ///< Of the divergence from the weights at the start; 0: no reference.
  double max_gradient_norm = 1.0;
  int epochs = 2;
  int minibatches = 2;  ///< Gradients that an epoch is divided into.
};

/// Means over the minibatches of one update, of this rank's own samples.
struct GrpoStatistics {
  double loss = 0.0;
  double clipped = 0.0;     ///< Share of the tokens whose ratio left the clip range.
  double divergence = 0.0;  ///< k3 from the reference; 0 without one.
};

/// Group relative policy optimization with gradients averaged over the ranks. Replicas that start
/// equal stay equal. Not thread-safe.
class Grpo {
 public:
  /// @param optimizer steps the distinct parameters of `policy`. The reference, where one is used,
  /// is a copy of the weights as they are now.
  /// @param seed of the minibatches' order; ranks may differ.
  Grpo(const GrpoOptions& options, std::shared_ptr<LanguageModelImpl> policy,
       torch::optim::Optimizer& optimizer, rl_loop::RankGroup& ranks, std::uint64_t seed);

  /// One iteration over these batches, which have the same shape. Collective: all ranks bring as
  /// many samples.
  GrpoStatistics update(std::span<const SampleBatch> batches);

 private:
  struct Batch;
  Batch prepare(std::span<const SampleBatch> batches);
  torch::Tensor loss(const Batch& batch, const torch::Tensor& rows, GrpoStatistics& statistics);
  void set_learning_rate();

  GrpoOptions options_;
  std::shared_ptr<LanguageModelImpl> policy_;
  std::shared_ptr<LanguageModelImpl> reference_;  // Null where kl_weight is 0.
  std::vector<torch::Tensor> parameters_;
  torch::optim::Optimizer& optimizer_;
  rl_loop::RankGroup& ranks_;
  std::uint64_t seed_;
  std::uint64_t updates_ = 0;
};

/// Log probabilities of the completions' tokens, [sequences, completion tokens].
/// @param sequences long [sequences, tokens], prompts and completions one after the other.
[[nodiscard]] torch::Tensor completion_log_probs(LanguageModelImpl& model,
                                                 const torch::Tensor& sequences,
                                                 std::int64_t prompt_length);

}  // namespace grpo
