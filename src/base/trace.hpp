// Spans of work for `--trace FILE`: one file a process, in the Trace Event Format that Perfetto and
// chrome://tracing read. All processes of a host write times of one clock (CLOCK_MONOTONIC), so their
// files can be laid side by side or joined.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <weightcast/status.hpp>
#include <weightcast/types.hpp>

namespace weightcast::base {

/// What a span is about. Negative numbers are left out.
struct TraceArgs {
  std::uint64_t version = 0;  ///< number; 0: left out
  std::int64_t bucket = -1;
  std::int64_t bytes = -1;
  std::int64_t rank = -1;     ///< whose share
};

/// Opens the file; what was opened before is closed. Events go through a bounded buffer to a thread
/// that writes; what does not fit is dropped and counted (the file's last event says how many), so
/// tracing never stalls anybody. @return kDenied or kInvalid for a file that cannot be written
Status open_trace(const std::string& file, const std::string& process_name);
/// Writes what is there and closes; also at exit. Blocks for the writing.
void close_trace() noexcept;
bool tracing() noexcept;

/// One stage of one bucket or version, from begin to end. `track` is the row it stands in: "d2h",
/// "h2d", "wire", "verify", "place", "switch", "hook", "fence", ...
void trace_span(std::string_view track, std::string_view name, Clock::time_point begin,
                Clock::time_point end, const TraceArgs& args = {}) noexcept;

/// The span of its own life.
class TraceScope {
 public:
  TraceScope(std::string_view track, std::string_view name, TraceArgs args = {}) noexcept
      : track_(track), name_(name), args_(args), begin_(tracing() ? Clock::now() : Clock::time_point{}) {}
  ~TraceScope() {
    if (begin_ != Clock::time_point{}) trace_span(track_, name_, begin_, Clock::now(), args_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

 private:
  std::string_view track_, name_;  ///< literals
  TraceArgs args_;
  Clock::time_point begin_;
};

}  // namespace weightcast::base
