// A /dev/shm of a test's own, so that none fills the machine's.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace weightcast::test {

inline bool write_text(const char* path, const std::string& text) {
  const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  ::close(fd);
  return ok;
}

/// Moves the calling process (a child made for it) into a mount namespace of its own and mounts a
/// tmpfs on /dev/shm there, e.g. with "size=1m". @return "" or why that is not permitted
inline std::string enter_small_shm(const std::string& options, unsigned long flags = 0) {
  const auto failed = [](const std::string& what) { return what + ": " + std::strerror(errno); };
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWNS) != 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return failed("no mount namespace");
    write_text("/proc/self/setgroups", "deny");
    if (!write_text("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1") ||
        !write_text("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1")) {
      return failed("no user namespace");
    }
  }
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return failed("private /");
  if (::mount("tmpfs", "/dev/shm", "tmpfs", flags, options.c_str()) != 0) {
    return failed("mount of a tmpfs");
  }
  return "";
}

}  // namespace weightcast::test
