#pragma once

#include <chrono>
#include <cstdint>

#include "clock.hpp"
#include "weight_tag.hpp"

namespace rl_loop {

/// How far a worker runs ahead of the trainer. Segments beyond what the trainer can use before its
/// next version would be thrown away there, and making them takes the cores that it trains on.
class Pace {
 public:
  Pace(std::uint32_t segments_per_version, std::chrono::seconds idle_limit)
      : quota_(segments_per_version), idle_limit_(idle_limit) {}

  /// Notes that a segment was made under `tag`.
  void made(WeightTag tag) {
    if (tag != tag_) {
      tag_ = tag;
      made_ = 0;
      newest_at_ = Clock::now();
    }
    ++made_;
  }

  /// The number of the version to await before the next segment: one that has long come, except
  /// before the first and where the present one's quota is spent.
  [[nodiscard]] std::uint64_t wanted() const {
    return tag_.number + (made_ >= quota_ || waiting_for_first() ? 1 : 0);
  }

  /// Grants the present version's quota once more: no newer one came, perhaps because the trainer
  /// needs what workers that are gone would have made.
  void renew() { made_ = 0; }

  [[nodiscard]] bool waiting_for_first() const { return tag_.number == 0; }

  /// Whether no new version has come for so long that the job must be over.
  [[nodiscard]] bool abandoned() const { return Clock::now() - newest_at_ > idle_limit_; }

 private:
  std::uint32_t quota_;
  std::chrono::seconds idle_limit_;
  WeightTag tag_;
  std::uint32_t made_ = 0;
  Clock::time_point newest_at_ = Clock::now();
};

}  // namespace rl_loop
