// How long the stages of a version took and what passed through them, counted from the same spans
// that a trace shows.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "base/histogram.hpp"

namespace weightcast::base {

/// The tracks of spans (docs/tracing.md), and one for whatever is none of them.
inline constexpr std::array kStages = {
    std::string_view("applier"), std::string_view("capture"), std::string_view("d2d"),
    std::string_view("d2h"),     std::string_view("digest"),  std::string_view("fence"),
    std::string_view("h2d"),     std::string_view("hook"),    std::string_view("nccl"),
    std::string_view("pause"),   std::string_view("place"),   std::string_view("publish"),
    std::string_view("seal"),    std::string_view("stage"),   std::string_view("switch"),
    std::string_view("verify"),  std::string_view("wait"),    std::string_view("wire"),
    std::string_view("other")};

struct StageStats {
  Histogram durations{kDurationBounds};  ///< ns
  std::atomic<std::uint64_t> bytes{0};
};

/// Of kStages[stage], since the process began to count. Lives for ever.
const StageStats& stage_stats(std::size_t stage) noexcept;

/// Counts one span: two clock readings are all that was needed for it.
void count_stage(std::string_view track, std::int64_t took_ns, std::int64_t bytes) noexcept;

/// From now on each span is counted (trace.hpp), until as many calls with false have been made.
/// Thread safety: any thread. A forked child does not count until somebody there calls it.
void count_stages(bool on) noexcept;

}  // namespace weightcast::base
