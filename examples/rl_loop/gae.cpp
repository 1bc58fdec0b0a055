#include "gae.hpp"

#include <cassert>
#include <cstddef>

namespace rl_loop {

void generalized_advantages(const Segment& segment, std::span<const float> values,
                            std::span<const float> next_values, float discount, float lambda,
                            std::span<float> advantages) {
  const std::size_t environments = segment.environments;
  assert(values.size() == segment.transitions());
  assert(next_values.size() == segment.transitions());
  assert(advantages.size() == segment.transitions());
  for (std::size_t environment = 0; environment < environments; ++environment) {
    float next_advantage = 0.0F;
    for (std::size_t step = segment.steps; step-- > 0;) {
      const std::size_t i = step * environments + environment;
      const float alive = segment.terminated[i] != 0 ? 0.0F : 1.0F;
      // The next row belongs to another episode after either kind of end.
      const float continues = segment.truncated[i] != 0 ? 0.0F : alive;
      const float error = segment.rewards[i] + discount * alive * next_values[i] - values[i];
      next_advantage = error + discount * lambda * continues * next_advantage;
      advantages[i] = next_advantage;
    }
  }
}

}  // namespace rl_loop
