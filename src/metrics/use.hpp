// How publishers and subscribers share the one place where their process's metrics go.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include <weightcast/status.hpp>

#include "metrics/samples.hpp"

namespace weightcast::metrics {

/// A member's part in its process's metrics. The first member that asks for them opens the endpoint
/// or the file; those who ask while it is open are seen there too, whatever they named; the last one
/// closes it. Movable; lets go in its destructor, which waits for a look that is under way.
class Use {
 public:
  /// Adds the member's samples, begin_member() first. Called from a thread of the metrics' own.
  using Collect = std::function<void(Samples&)>;

  Use() noexcept = default;  ///< asks for none
  /// @param target the option `metrics`, checked; empty: none
  /// @param member for %n
  /// @return kExists where the address is taken, kDenied, kNotFound or kExhausted, kUnavailable in a
  ///   build without metrics; each names the option
  static Result<Use> open(const std::string& target, const std::string& member);

  /// From now on until the end of this, `collect` is called. Call it once.
  void watch(Collect collect);
  /// Whether metrics are wanted at all.
  explicit operator bool() const noexcept { return process_ != 0; }

  Use(Use&& other) noexcept
      : process_(std::exchange(other.process_, 0)), id_(std::exchange(other.id_, 0)) {}
  Use& operator=(Use&& other) noexcept {
    std::swap(process_, other.process_);
    std::swap(id_, other.id_);
    return *this;
  }
  ~Use();

 private:
  int process_ = 0;  ///< that it counts in: a forked child's copy does not; 0: in none
  std::uint64_t id_ = 0;
};

/// What there is now, of all members and the process.
Samples collect_all();

/// Where the endpoint listens, as "http://address:port/metrics", or the file's path; empty where
/// neither is open.
std::string where();

}  // namespace weightcast::metrics
