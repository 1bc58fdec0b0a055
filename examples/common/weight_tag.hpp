#pragma once

#include <cstdint>

namespace rl_loop {

/// Which weights: the trainer's run and, within it, the number of the publish point.
struct WeightTag {
  std::uint64_t run = 0;
  std::uint64_t number = 0;

  WeightTag() = default;
  WeightTag(std::uint64_t run_of, std::uint64_t number_of) : run(run_of), number(number_of) {}

  /// From weightcast::Version, which the plain twin does without.
  template <class Version>
  requires requires(const Version& version) {
    version.run.started_us;
    version.number;
  }
  WeightTag(const Version& version)  // NOLINT(google-explicit-constructor)
      : run(version.run.started_us), number(version.number) {}

  friend bool operator==(const WeightTag&, const WeightTag&) = default;
};

/// Whether what was made under `tag` is of the newest version or of the one before it.
[[nodiscard]] inline bool is_fresh(const WeightTag& tag, const WeightTag& newest) {
  return tag.run == newest.run && tag.number <= newest.number && tag.number + 1 >= newest.number;
}

}  // namespace rl_loop
