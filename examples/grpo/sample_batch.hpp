#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "weight_tag.hpp"

namespace grpo {

/// What one worker generated under the weights of `tag`: `groups` prompts with `group_size` samples
/// each. Arrays are [group][sample][token].
struct SampleBatch {
  rl_loop::WeightTag tag;
  std::uint32_t worker = 0;
  std::uint32_t groups = 0;
  std::uint32_t group_size = 0;
  std::uint32_t prompt_length = 0;
  std::uint32_t completion_length = 0;
  std::vector<float> log_probs;  ///< Of each token sampled, under the weights of `tag`.
  std::vector<float> rewards;    ///< [group][sample].
  std::vector<std::uint8_t> prompts;      ///< [group][token].
  std::vector<std::uint8_t> completions;  ///< The end token and nothing else from the end on.

  [[nodiscard]] std::size_t samples() const { return std::size_t{groups} * group_size; }
  /// Tokens that were sampled: those up to and with the first end token of each sample.
  [[nodiscard]] std::size_t sampled_tokens() const;
};

/// The bytes of a batch: a fixed header, then the arrays in the order of the struct. Both ends run
/// on hosts of the same byte order.
[[nodiscard]] std::vector<std::byte> encode(const SampleBatch& batch);

/// Reads what encode() wrote. Anything else (another magic, a length that does not match the
/// header's counts, counts beyond the limits, a token that does not exist, a number that is none)
/// is refused with nullopt, whatever the bytes are.
[[nodiscard]] std::optional<SampleBatch> decode(std::span<const std::byte> bytes);

}  // namespace grpo
