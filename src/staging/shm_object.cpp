#include "staging/shm_object.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/permissions.hpp>
#include <cerrno>
#include <system_error>
#include <thread>

#include "staging/object_name.hpp"

namespace weightcast::staging {
namespace bip = boost::interprocess;
namespace {

/// The errno behind an exception of Boost.Interprocess.
int native_errno(const bip::interprocess_exception& error) noexcept {
  const int native = error.get_native_error();
  return native != 0 ? native : EIO;
}

std::string path_of(const std::string& name) { return std::string(kShmDirectory) + "/" + name; }

Status open_failure(const std::string& name, int error) {
  const std::string what = "cannot open shared memory " + path_of(name) + ": " + errno_text(error);
  switch (error) {
    case ENOENT:
      return Status(Code::kNotFound, what + "; its owner has ended or was swept");
    case EMFILE:
    case ENFILE:
      return Status(Code::kExhausted, what + "; raise the limit on open files (ulimit -n)");
    default:
      return Status(Code::kDenied,
                    what +
                        "; trainer and engines of one host must run as the same user and share " +
                        kShmDirectory);
  }
}

Status create_failure(const std::string& name, int error) {
  const std::string what =
      "cannot create shared memory " + path_of(name) + ": " + errno_text(error);
  switch (error) {
    case EEXIST:
      return Status(Code::kExists,
                    what +
                        "; another source with the same job, policy, run, rank and incarnation "
                        "is there: give each trainer job a name of its own");
    case EMFILE:
    case ENFILE:
      return Status(Code::kExhausted, what + "; raise the limit on open files (ulimit -n)");
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
      return Status(Code::kExhausted, what + "; remove leftovers in " + std::string(kShmDirectory) +
                                          " or mount it with more room (size=, nr_inodes=)");
    default:
      return Status(Code::kDenied, what + "; " + std::string(kShmDirectory) +
                                       " must be a tmpfs mounted read-write that uid " +
                                       std::to_string(::geteuid()) + " may write to");
  }
}

}  // namespace

Result<ShmObject> create_object(const std::string& name) {
  try {
    bip::permissions owner_only(0600);
    return ShmObject(bip::create_only, name.c_str(), bip::read_write, owner_only);
  } catch (const bip::interprocess_exception& error) {
    return create_failure(name, native_errno(error));
  }
}

Result<ShmObject> create_locked_object(const std::string& name) {
  constexpr int kTries = 100;
  Status failure;
  for (int i = 0; i < kTries; ++i) {
    Result<ShmObject> object = create_object(name);
    if (object) {
      const int fd = descriptor(*object);
      if (try_lock_exclusive(fd) && still_linked(fd)) return object;
    } else if (i == 0 || object.status().code() != Code::kExists) {
      return object;
    } else {
      failure = object.status();
    }
    std::this_thread::yield();
  }
  return failure.is_ok() ? Status(Code::kExists, "the object " + name +
                                                     " was swept away again and again while it was "
                                                     "being created; try once more")
                         : failure;
}

Result<ShmObject> open_object(const std::string& name, ShmMode mode) {
  // Looked at before it is opened: opening a FIFO that a stranger put there would wait for a
  // writer. The directory is sticky, so what is ours now cannot be swapped by anybody else.
  struct stat info {};
  const std::string path = path_of(name);
  if (::lstat(path.c_str(), &info) != 0) return open_failure(name, errno);
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) {
    return Status(Code::kDenied, "shared memory " + path + " is not a regular object of uid " +
                                     std::to_string(::geteuid()) + " (owner " +
                                     std::to_string(info.st_uid) +
                                     "); trainer and engines must run as the same user");
  }
  try {
    return ShmObject(bip::open_only, name.c_str(), mode);
  } catch (const bip::interprocess_exception& error) {
    return open_failure(name, native_errno(error));
  }
}

Result<ShmRegion> map_object(const ShmObject& object, ShmMode mode, std::uint64_t offset,
                             std::uint64_t bytes) {
  try {
    return ShmRegion(object, mode, static_cast<bip::offset_t>(offset), bytes);
  } catch (const bip::interprocess_exception& error) {
    return Status(Code::kExhausted,
                  "cannot map " + std::to_string(bytes) + " bytes of shared memory " +
                      std::string(object.get_name()) + ": " + errno_text(native_errno(error)) +
                      "; raise the limit on address space (ulimit -v), or "
                      "vm.overcommit_memory or vm.max_map_count");
  }
}

bool unlink_object(const std::string& name) noexcept { return ShmObject::remove(name.c_str()); }

bool try_lock_exclusive(int fd) noexcept { return ::flock(fd, LOCK_EX | LOCK_NB) == 0; }
bool try_lock_shared(int fd) noexcept { return ::flock(fd, LOCK_SH | LOCK_NB) == 0; }
void unlock(int fd) noexcept { ::flock(fd, LOCK_UN); }

bool still_linked(int fd) noexcept {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && info.st_nlink > 0;
}

}  // namespace weightcast::staging
