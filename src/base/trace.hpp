// Spans of work for `--trace FILE`: one file a process, in the Trace Event Format that Perfetto and
// chrome://tracing read. All processes of a host write times of one clock (CLOCK_MONOTONIC), so their
// files can be laid side by side or joined (scripts/lib/trace_report.py, docs/tracing.md).
#pragma once

#include <atomic>
#include <cstddef>
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

/// What a trace may take.
struct TraceLimits {
  std::size_t waiting_events = std::size_t{1} << 14;  ///< in memory, some 2 MiB; a power of two
  std::uint64_t file_bytes = std::uint64_t{1} << 30;
};

/// Opens a new file, readable by its owner alone; what was opened before is closed. A file that
/// exists is never touched, nor a link followed: the process id goes into the name before its
/// ending, and a number behind that where needed (trace_file() says which it became).
/// Events go through a bounded buffer to a thread that writes them every few milliseconds; what does
/// not fit there or into the file is dropped and counted (the file's last event says how many), so
/// tracing never stalls anybody. Until it is closed the file lacks its last bracket, which readers of
/// the format do without: a process that is killed leaves a file that can be read.
/// A forked child does not trace, and may open a file of its own.
/// @return kInvalid for a name that cannot be a file's, kDenied, kNotFound or kExhausted for a file
///   that cannot be made; then nothing is traced. Thread safety: any thread, as all here
Status open_trace(const std::string& file, const std::string& process_name,
                  const TraceLimits& limits = {});
/// Writes what is there and closes; also at exit. Blocks for the writing.
void close_trace() noexcept;
/// The file that is open; empty where none is.
std::string trace_file();

namespace detail {
inline constexpr unsigned kSpansToFile = 1, kSpansToStats = 2;
extern std::atomic<unsigned> span_users;  ///< of these
}

/// Whether anybody wants spans: an open trace, or metrics, which count them (stage_stats.hpp).
inline bool tracing() noexcept { return detail::span_users.load(std::memory_order_relaxed) != 0; }

/// One stage of one bucket or version, from begin to end. `track` is the row it stands in: "d2h",
/// "h2d", "wire", "verify", "place", "switch", "hook", "fence", ... Both texts are copied, cut at 23
/// characters. Where spans of a track overlap, further rows of that name are made.
void trace_span(std::string_view track, std::string_view name, Clock::time_point begin,
                Clock::time_point end, const TraceArgs& args = {}) noexcept;

/// The span of its own life.
class TraceScope {
 public:
  /// `track` and `name` outlive it.
  TraceScope(std::string_view track, std::string_view name, TraceArgs args = {}) noexcept
      : track_(track), name_(name), args_(args) {
    if (tracing()) begin_ = Clock::now();
  }
  ~TraceScope() {
    if (begin_ != Clock::time_point{}) trace_span(track_, name_, begin_, Clock::now(), args_);
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

  /// For what is known only later.
  TraceArgs& args() noexcept { return args_; }
  /// No span comes of it.
  void cancel() noexcept { begin_ = {}; }

 private:
  std::string_view track_, name_;
  TraceArgs args_;
  Clock::time_point begin_{};
};

}  // namespace weightcast::base
