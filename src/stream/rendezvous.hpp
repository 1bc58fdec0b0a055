// Where the members of a job on one host meet: a private directory with the coordinator's lock,
// its socket, and the announcement that names the socket.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <weightcast/types.hpp>

namespace weightcast::stream {

/// What the coordinator of a run announces.
struct Announcement {
  std::uint32_t protocol = 0;
  std::string endpoint;  ///< ipc://...
  Run run;
  long pid = 0;
};

/// Where meeting_place() is, or would be. Looks at nothing. @return kInvalid as meeting_place()
Result<std::string> meeting_place_path(const std::string& base, const std::string& runtime_dir,
                                       const std::string& job, const std::string& policy);

/// The folder of one job's policy: `<base>/<job>/<policy>`, all parts 0700 and ours.
/// @param base empty: $XDG_RUNTIME_DIR/weightcast as given in `runtime_dir`, else
///   /tmp/weightcast-<uid>
/// Makes what is missing, but not what lies above the base. Both sides call it, whoever comes first.
/// @return kDenied with a remedy where a part is not ours, is a link, or is open to others; kInvalid
///   for a name, or where the whole is too long for a socket's path; kNotFound
Result<std::string> meeting_place(const std::string& base, const std::string& runtime_dir,
                                  const std::string& job, const std::string& policy);

/// Reads `<place>/coordinator`. The endpoint that it returns lies in `place`, also where the
/// coordinator reaches that directory by another path. Never waits.
/// @return kNotFound where nobody has announced; kInvalid where the file is not what a coordinator
///   writes; kDenied where it is not ours
Result<Announcement> read_announcement(const std::string& place);

/// The coordinator's hold on a meeting place, for as long as it lives.
/// Thread safety: one thread.
class Rendezvous {
 public:
  /// Takes the lock (kExists where another trainer holds it; with `takeover` that one's hold no
  /// longer counts), removes sockets of dead runs, and chooses this run's endpoint and Run: later
  /// than the wall clock's and than any announced before.
  static Result<std::unique_ptr<Rendezvous>> claim(const std::string& place, bool takeover);
  /// Removes the socket and, where it is still ours, the announcement. Waits for at most 200 ms.
  ~Rendezvous();
  Rendezvous(const Rendezvous&) = delete;
  Rendezvous& operator=(const Rendezvous&) = delete;

  const Run& run() const noexcept;
  const std::string& endpoint() const noexcept;
  /// Call it once the endpoint is bound. Atomic (rename). Waits for at most 200 ms.
  /// @return kStale where another trainer has taken over
  Status announce(std::uint32_t protocol);
  /// True once another trainer has taken over (or the lock file is gone): this coordinator no longer
  /// counts and should end. Two system calls.
  bool superseded() const noexcept;

 private:
  struct Impl;
  explicit Rendezvous(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::stream
