// How publishers and subscribers share the one trace of their process.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include <weightcast/status.hpp>

namespace weightcast::base {

/// What a name of a trace file may hold, for messages.
inline constexpr const char* kTraceNameRule =
    "the path of a file; in it %p is the pid, %n the member's name, %% a percent sign";

/// Whether each % of it is one of those.
bool is_trace_name(std::string_view pattern);
/// The pattern with its %p, %n and %% filled in.
std::string trace_name(std::string_view pattern, std::string_view member);

/// A member's part in its process's trace. The first member that asks for one opens it and names the
/// process; those who ask while it is open write into it too, whatever file they named; the last one
/// closes it. Movable; lets go in its destructor, which blocks for the writing.
class TraceUse {
 public:
  TraceUse() noexcept = default;  ///< asks for none
  /// @param pattern the option `trace`; empty: none
  /// @param member for %n; @param process_name how the trace calls this process
  /// @return as open_trace, naming the option
  static Result<TraceUse> open(const std::string& pattern, const std::string& member,
                               const std::string& process_name);

  TraceUse(TraceUse&& other) noexcept : process_(std::exchange(other.process_, 0)) {}
  TraceUse& operator=(TraceUse&& other) noexcept {
    std::swap(process_, other.process_);
    return *this;
  }
  ~TraceUse();

 private:
  int process_ = 0;  ///< that it counts in: a forked child's copy does not; 0: in none
};

}  // namespace weightcast::base
