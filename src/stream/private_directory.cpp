#include "stream/private_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include <weightcast/types.hpp>

namespace weightcast::stream {
namespace {

// strerror is not thread-safe everywhere.
std::string reason(int error) { return std::system_category().message(error); }

Status check_ours(const std::string& what, const struct stat& info) {
  if (info.st_uid != ::geteuid()) {
    return {Code::kDenied, "expected " + what + " to belong to user " + std::to_string(::geteuid()) +
                               ", but it belongs to user " + std::to_string(info.st_uid) +
                               "; choose another directory (option `directory`, WEIGHTCAST_DIR)"};
  }
  if ((info.st_mode & 077) != 0) {
    return {Code::kDenied, what + " is open to other users: chmod go= it, or choose another " +
                               "directory (option `directory`, WEIGHTCAST_DIR)"};
  }
  return Status::ok();
}

}  // namespace

Result<base::UniqueFd> open_private_directory(const std::string& path) {
  base::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  const std::string what = "directory '" + path + "'";
  if (!fd) {
    const int error = errno;
    if (error == ENOENT) return Status(Code::kNotFound, what + " does not exist");
    if (error == ENOTDIR || error == ELOOP) {
      return Status(Code::kDenied, "expected '" + path + "' to be a directory of its own, but it is " +
                                       "a link or a file: remove it, or choose another directory " +
                                       "(option `directory`, WEIGHTCAST_DIR)");
    }
    return Status(error == EMFILE || error == ENFILE ? Code::kExhausted : Code::kDenied,
                  "cannot open " + what + ": " + reason(error) +
                      "; choose another directory (option `directory`, WEIGHTCAST_DIR)");
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) {
    return Status(Code::kDenied, "cannot look at " + what + ": " + reason(errno));
  }
  if (Status s = check_ours(what, info); !s) return s;
  return fd;
}

Result<base::UniqueFd> make_private_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    const int error = errno;
    const std::string what = "cannot make directory '" + path + "': " + reason(error);
    if (error == ENOENT) {
      return Status(Code::kNotFound, what + "; make the directory above it, or choose another " +
                                         "(option `directory`, WEIGHTCAST_DIR)");
    }
    return Status(error == ENOSPC || error == EDQUOT ? Code::kExhausted : Code::kDenied,
                  what + "; choose another directory (option `directory`, WEIGHTCAST_DIR)");
  }
  return open_private_directory(path);
}

Result<base::UniqueFd> lock_private_directory(const std::string& path) {
  auto fd = open_private_directory(path);
  if (!fd) return fd;
  // flock has no deadline of its own.
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(200);
  while (::flock(fd->get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK || Clock::now() >= until) {
      return Status(Code::kUnavailable, "another trainer is just starting or ending in '" + path +
                                            "' and does not finish; try again, and look for a " +
                                            "stopped process if that does not help");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return fd;
}

Result<base::UniqueFd> open_private_file(int directory, const char* name, int flags) {
  base::UniqueFd fd(
      ::openat(directory, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600));
  const std::string what = "file '" + std::string(name) + "' of the meeting place";
  if (!fd) {
    const int error = errno;
    if (error == ENOENT) return Status(Code::kNotFound, what + " does not exist");
    if (error == EMFILE || error == ENFILE || error == ENOSPC || error == EDQUOT) {
      return Status(Code::kExhausted, "cannot open " + what + ": " + reason(error));
    }
    return Status(Code::kDenied, "cannot open " + what + ": " + reason(error) +
                                     "; remove it if no weightcast wrote it");
  }
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return Status(Code::kDenied, "expected " + what + " to be an ordinary file; remove it");
  }
  if (Status s = check_ours(what, info); !s) return s;
  return fd;
}

Result<std::string> read_small_file(int file, std::size_t limit) {
  std::string text(limit + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::pread(file, text.data() + size, text.size() - size,
                                static_cast<off_t>(size));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status(Code::kDenied, "cannot read: " + reason(errno));
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
    const ssize_t put = ::pwrite(file, text.data() + done, text.size() - done,
                                 static_cast<off_t>(done));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      const int error = put < 0 ? errno : ENOSPC;
      return {error == ENOSPC || error == EDQUOT ? Code::kExhausted : Code::kDenied,
              "cannot write: " + reason(error)};
    }
    done += static_cast<std::size_t>(put);
  }
  return Status::ok();
}

}  // namespace weightcast::stream
