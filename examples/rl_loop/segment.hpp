#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "weight_tag.hpp"

namespace rl_loop {

/// What one worker saw in `steps` consecutive steps of `environments` environments, all under the
/// weights of `tag`. Arrays are step-major: element [step][environment], states
/// [step][environment][4]. An episode may go on over several segments, a segment never spans two
/// versions.
struct Segment {
  WeightTag tag;
  std::uint32_t worker = 0;
  std::uint32_t steps = 0;
  std::uint32_t environments = 0;
  std::vector<float> states;
  std::vector<float> next_states;  ///< Before any reset, so that a truncated end can bootstrap.
  std::vector<float> log_probs;    ///< Of the action taken, under the weights of `tag`.
  std::vector<float> rewards;
  std::vector<std::uint8_t> actions;
  std::vector<std::uint8_t> terminated;
  std::vector<std::uint8_t> truncated;
  std::vector<float> episode_returns;  ///< Of the episodes that ended here, in order.

  [[nodiscard]] std::size_t transitions() const { return std::size_t{steps} * environments; }
};

/// The bytes of a segment: a fixed header, then the arrays in the order of the struct. Both ends
/// run on hosts of the same byte order.
[[nodiscard]] std::vector<std::byte> encode(const Segment& segment);

/// Reads what encode() wrote. Anything else (another magic, a length that does not match the
/// header's counts, counts beyond the limits) is refused with nullopt, whatever the bytes are.
[[nodiscard]] std::optional<Segment> decode(std::span<const std::byte> bytes);

}  // namespace rl_loop
