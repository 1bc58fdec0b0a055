#include "base/private_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <thread>

#include <weightcast/types.hpp>

#include "base/errno_text.hpp"

namespace weightcast::base {
namespace {

Status check_ours(const std::string& what, const struct stat& info, const Privacy& privacy) {
  if (info.st_uid != ::geteuid()) {
    return {Code::kDenied, "expected " + what + " to belong to user " +
                               std::to_string(::geteuid()) + ", but it belongs to user " +
                               std::to_string(info.st_uid) + "; " + privacy.advice};
  }
  if (!privacy.others_may_read && (info.st_mode & 077) != 0) {
    return {Code::kDenied, what + " is open to other users: chmod go= it, or " + privacy.advice};
  }
  if ((info.st_mode & 022) != 0) {
    return {Code::kDenied,
            what + " can be changed by other users: chmod go-w it, or " + privacy.advice};
  }
  return Status::ok();
}

}  // namespace

Result<UniqueFd> open_private_directory(const std::string& path, const Privacy& privacy) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const std::string what = "directory '" + path + "'";
  if (!fd) {
    const int error = errno;
    if (error == ENOENT) return Status(Code::kNotFound, what + " does not exist");
    if (error == ENOTDIR || error == ELOOP) {
      return Status(Code::kDenied, "expected '" + path +
                                       "' to be a directory of its own, but it is " +
                                       "a link or a file: remove it, or " + privacy.advice);
    }
    return Status(error == EMFILE || error == ENFILE ? Code::kExhausted : Code::kDenied,
                  "cannot open " + what + ": " + errno_text(error) + "; " + privacy.advice);
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) {
    return Status(Code::kDenied, "cannot look at " + what + ": " + errno_text(errno));
  }
  if (Status s = check_ours(what, info, privacy); !s) return s;
  return fd;
}

Result<UniqueFd> make_private_directory(const std::string& path, const Privacy& privacy) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    const int error = errno;
    const std::string what = "cannot make directory '" + path + "': " + errno_text(error);
    if (error == ENOENT) {
      return Status(Code::kNotFound, what + "; make the directory above it, or " + privacy.advice);
    }
    return Status(error == ENOSPC || error == EDQUOT ? Code::kExhausted : Code::kDenied,
                  what + "; " + privacy.advice);
  }
  return open_private_directory(path, privacy);
}

Result<UniqueFd> lock_private_directory(const std::string& path, std::chrono::milliseconds patience,
                                        const Privacy& privacy) {
  auto fd = open_private_directory(path, privacy);
  if (!fd) return fd;
  // flock has no deadline of its own.
  const Clock::time_point until = Clock::now() + patience;
  while (::flock(fd->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK || Clock::now() >= until) {
      return Status(Code::kUnavailable, "another process is changing '" + path +
                                            "' and does not finish; try again, and look for a " +
                                            "stopped process if that does not help");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return fd;
}

Result<UniqueFd> open_private_file(int directory, const char* name, int flags,
                                   const Privacy& privacy) {
  UniqueFd fd(
      ::openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600));
  const std::string what = "file '" + std::string(name) + "'";
  if (!fd) {
    const int error = errno;
    if (error == ENOENT) return Status(Code::kNotFound, what + " does not exist");
    if (error == EMFILE || error == ENFILE || error == ENOSPC || error == EDQUOT) {
      return Status(Code::kExhausted, "cannot open " + what + ": " + errno_text(error));
    }
    return Status(Code::kDenied, "cannot open " + what + ": " + errno_text(error) +
                                     "; remove it if no weightcast wrote it");
  }
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return Status(Code::kDenied, "expected " + what + " to be an ordinary file; remove it");
  }
  if (Status s = check_ours(what, info, privacy); !s) return s;
  return fd;
}

Result<std::string> read_small_file(int file, std::size_t limit) {
  std::string text(limit + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got =
        ::pread(file, text.data() + size, text.size() - size, static_cast<off_t>(size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status(Code::kDenied, "cannot read: " + errno_text(errno));
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > limit) {
    return Status(Code::kInvalid,
                  "expected a file of at most " + std::to_string(limit) + " bytes, got more");
  }
  text.resize(size);
  return text;
}

Status write_all(int file, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t put =
        ::pwrite(file, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const int error = put < 0 ? errno : ENOSPC;
      return {error == ENOSPC || error == EDQUOT ? Code::kExhausted : Code::kDenied,
              "cannot write: " + errno_text(error)};
    }
    done += static_cast<std::size_t>(put);
  }
  return Status::ok();
}

}  // namespace weightcast::base
