// The one coordinator of a meeting place: who holds the lock on its file.
#pragma once

#include <cstdint>
#include <string>

#include <weightcast/types.hpp>

#include "base/unique_fd.hpp"

namespace weightcast::stream {

inline constexpr const char* kRunLockFile = "coordinator.lock";

/// What its file says of who holds the lock, or held it last.
struct RunHolder {
  Run run;
  std::uint64_t pid = 0;  ///< 0: unknown
};

/// An empty or damaged file is one of a holder that died before it wrote: nothing is known of it.
RunHolder read_run_holder(int file);

/// A lock on `<place>/coordinator.lock`, which the kernel drops when this process ends. The file
/// stays: it remembers the newest run of the place. Thread safety: one thread.
class RunLock {
 public:
  /// Does not wait. The caller holds the lock on the directory (lock_private_directory).
  /// @param takeover where the lock is held, put a new file in its place: the holder's lock then is
  ///   one on a file that has no name, and no longer counts
  /// @return kExists where another process holds it (the message names it)
  static Result<RunLock> acquire(int directory, const std::string& place, bool takeover);

  RunLock(RunLock&&) noexcept = default;
  RunLock& operator=(RunLock&&) noexcept = default;
  ~RunLock();

  /// The newest run that ever held this place; none at first.
  const Run& last_run() const noexcept { return last_run_; }
  /// Leaves this run and this process's id in the file.
  Status record(const Run& run);
  /// False once another process has taken over.
  bool still_ours(int directory) const noexcept;

 private:
  RunLock(base::UniqueFd file, Run last_run) noexcept
      : file_(std::move(file)), last_run_(last_run) {}

  base::UniqueFd file_;
  Run last_run_;
};

}  // namespace weightcast::stream
