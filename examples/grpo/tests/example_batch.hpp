#pragma once

#include <cstddef>
#include <cstdint>

#include "sample_batch.hpp"

namespace grpo {

/// A batch of two-digit sums with different values everywhere and some right answers.
inline SampleBatch example_batch(rl_loop::WeightTag tag, std::uint32_t groups = 2,
                                 std::uint32_t group_size = 4) {
  SampleBatch batch;
  batch.tag = tag;
  batch.worker = 3;
  batch.groups = groups;
  batch.group_size = group_size;
  batch.prompt_length = 6;
  batch.completion_length = 4;
  for (std::uint32_t group = 0; group < groups; ++group) {
    for (const std::uint8_t token : {0, 7, 10, 2, 5, 11}) batch.prompts.push_back(token);
  }
  for (std::size_t i = 0; i < batch.samples(); ++i) {
    const bool is_right = i % 2 == 0;
    for (const int token : {is_right ? 2 : 4, 3, 12, 12}) {
      batch.completions.push_back(static_cast<std::uint8_t>(token));
    }
    for (int token = 0; token < 4; ++token) {
      batch.log_probs.push_back(token < 3 ? -2.5F - 0.01F * static_cast<float>(i) : 0.0F);
    }
    batch.rewards.push_back(is_right ? 1.0F : 0.0F);
  }
  return batch;
}

}  // namespace grpo
