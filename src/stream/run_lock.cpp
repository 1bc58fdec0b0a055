#include "stream/run_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "stream/announcement.hpp"
#include "base/private_directory.hpp"

namespace weightcast::stream {
namespace {

constexpr const char* kNewLockFile = "coordinator.lock.new";
constexpr std::size_t kMaxBytes = 256;

/// "job 'J', policy 'P'" of <base>/J/P.
std::string describe(const std::string& place) {
  const auto policy = place.rfind('/');
  const auto job = policy == std::string::npos || policy == 0 ? policy : place.rfind('/', policy - 1);
  if (job == std::string::npos) return "'" + place + "'";
  return "policy '" + place.substr(policy + 1) + "' of job '" +
         place.substr(job + 1, policy - job - 1) + "'";
}

}  // namespace

RunHolder read_run_holder(int file) {
  RunHolder holder;
  const auto text = base::read_small_file(file, kMaxBytes);
  if (!text) return holder;
  std::string_view rest = *text;
  RunHolder read;
  if (take_run_line(rest, read.run) && take_number_line(rest, "pid", read.pid) && rest.empty()) {
    holder = read;
  }
  return holder;
}

Result<RunLock> RunLock::acquire(int directory, const std::string& place, bool takeover) {
  auto file = base::open_private_file(directory, kRunLockFile, O_RDWR | O_CREAT);
  if (!file) return file.status();
  const RunHolder holder = read_run_holder(file->get());
  if (::flock(file->get(), LOCK_EX | LOCK_NB) == 0) {
    return RunLock(std::move(*file), holder.run);
  }
  if (errno != EWOULDBLOCK) {
    return Status(Code::kDenied, "cannot lock '" + place + "/" + kRunLockFile +
                                     "'; put the meeting place on a local file system");
  }
  if (!takeover) {
    return Status(Code::kExists,
                  "another trainer (" +
                      (holder.pid != 0 ? "pid " + std::to_string(holder.pid) : "pid unknown") +
                      ") publishes " + describe(place) +
                      " here; stop it (and any process that it forked), choose another job name, "
                      "or take over (option `takeover`)");
  }
  // Locked before it gets the name, so that nobody can come between.
  if (::unlinkat(directory, kNewLockFile, 0) != 0 && errno != ENOENT) {
    return Status(Code::kDenied, "cannot remove '" + place + "/" + kNewLockFile + "'; remove it");
  }
  auto fresh = base::open_private_file(directory, kNewLockFile, O_RDWR | O_CREAT | O_EXCL);
  if (!fresh) return fresh.status();
  if (::flock(fresh->get(), LOCK_EX | LOCK_NB) != 0 ||
      ::renameat(directory, kNewLockFile, directory, kRunLockFile) != 0) {
    return Status(Code::kDenied, "cannot replace '" + place + "/" + kRunLockFile + "' to take over");
  }
  return RunLock(std::move(*fresh), holder.run);
}

RunLock::~RunLock() {
  // A child that was forked holds the same open file: closing alone would leave it locked.
  if (file_) ::flock(file_.get(), LOCK_UN);
}

Status RunLock::record(const Run& run) {
  const std::string text = run_line(run) + "pid=" + std::to_string(::getpid()) + "\n";
  if (Status s = base::write_all(file_.get(), text); !s) return s;
  if (::ftruncate(file_.get(), static_cast<off_t>(text.size())) != 0) {
    return {Code::kDenied, std::string("cannot shorten ") + kRunLockFile};
  }
  return Status::ok();
}

bool RunLock::still_ours(int directory) const noexcept {
  struct stat ours {};
  struct stat named {};
  return ::fstat(file_.get(), &ours) == 0 &&
         ::fstatat(directory, kRunLockFile, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

}  // namespace weightcast::stream
