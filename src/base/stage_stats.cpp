#include "base/stage_stats.hpp"

#include <algorithm>
#include <array>

namespace weightcast::base {
namespace {

/// Never destroyed: threads may count until the very end.
std::array<StageStats, kStages.size()>& all_stats() {
  static auto* const stats = new std::array<StageStats, kStages.size()>;
  return *stats;
}

}  // namespace

const StageStats& stage_stats(std::size_t stage) noexcept { return all_stats()[stage]; }

void count_stage(std::string_view track, std::int64_t took_ns, std::int64_t bytes) noexcept {
  const auto found = std::find(kStages.begin(), kStages.end() - 1, track);
  StageStats& its = all_stats()[static_cast<std::size_t>(found - kStages.begin())];
  its.durations.observe(took_ns);
  if (bytes > 0) {
    its.bytes.fetch_add(static_cast<std::uint64_t>(bytes), std::memory_order_relaxed);
  }
}

}  // namespace weightcast::base
