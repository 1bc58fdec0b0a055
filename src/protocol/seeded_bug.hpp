// Bugs that the simulation plants on purpose, to show that it would find them. In the library each
// question is a constant false and costs nothing; only the simulation, which compiles the state
// machines a second time with WEIGHTCAST_SEEDED_BUGS, can turn one on.
#pragma once

#include <cstdint>

namespace weightcast::protocol {

enum class Bug {
  kNone,
  kIgnoreReaderLock,        ///< a slot is rewritten although a reader holds it
  kReuseKeptSlot,           ///< a slot is rewritten although the coordinator still needs it
  kLostRelease,             ///< a slot is never given back
  kAckBeforePlacing,        ///< STAGED is said when staging begins
  kStaleAttemptAccepted,    ///< a commit is obeyed whatever attempt it is for
  kStaleRunAccepted,        ///< an older run's orders are obeyed
  kNoQuarantine,            ///< a new staging begins while a cancelled one still writes
  kEarlyCommit,             ///< committed when the first receiver is staged
  kNoEviction,              ///< silent members are waited for without end
  kStaleIncarnationCounted, ///< what an evicted incarnation says still counts
  kVoidForgotten,           ///< a void grant's other shares stay in the version
  kNoRetry,                 ///< a lost Prepare is never sent again
  kCatchUpUnpinned,         ///< the version that a joiner reads is not kept
  kLateGrantUsed,           ///< a rank past the granted point captures at its next one
  kOldOrdersObeyed,         ///< orders that were overtaken are obeyed
  kAllDirtyAtOnce,          ///< every engine in place is let go at once
  kDirtyWithoutSource,      ///< an engine gives up what it serves for bytes that nobody can send
  kInPlaceUnpinned,         ///< a version that comes after the commit is not kept until it is in
  kUnsealedCounted          ///< a version needs one share fewer than there are ranks
};

#if defined(WEIGHTCAST_SEEDED_BUGS)
/// The bugs that are turned on, a bit for each; set by the simulation alone, which has one thread.
inline std::uint64_t& seeded_bugs() noexcept {
  static std::uint64_t bugs = 0;
  return bugs;
}
constexpr std::uint64_t bug_bit(Bug bug) noexcept {
  return std::uint64_t{1} << static_cast<unsigned>(bug);
}
inline bool seeded(Bug bug) noexcept { return (seeded_bugs() & bug_bit(bug)) != 0; }
#else
constexpr bool seeded(Bug) noexcept { return false; }
#endif

}  // namespace weightcast::protocol
