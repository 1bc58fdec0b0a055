// Directories and files that nobody but this user can look into or change.
#pragma once

#include <chrono>
#include <string>

#include <weightcast/status.hpp>

#include "base/unique_fd.hpp"

namespace weightcast::base {

/// What is asked of a directory or file besides being this user's own and no link.
struct Privacy {
  bool others_may_read = false;  ///< nobody else may write in any case
  /// What to do about a refusal, for messages.
  const char* advice = "choose another directory (option `directory`, WEIGHTCAST_DIR)";
};

/// Opens a directory that exists. @return kNotFound where there is none; kDenied with a remedy
/// where it is a link, somebody else's, or open to others
Result<UniqueFd> open_private_directory(const std::string& path, const Privacy& privacy = {});

/// The same, after making it (0700) where nothing is there. Its parent must exist.
Result<UniqueFd> make_private_directory(const std::string& path, const Privacy& privacy = {});

/// Opens it and takes an exclusive flock on it, by which those who change its files exclude each
/// other for moments. Waits for at most `patience`. @return kUnavailable after that
Result<UniqueFd> lock_private_directory(
    const std::string& path, std::chrono::milliseconds patience = std::chrono::milliseconds(200),
    const Privacy& privacy = {});

/// An ordinary file of ours inside such a directory, or one made new, 0600 with O_CREAT in `flags`.
/// Never follows a link nor waits for a pipe's other end.
/// @return kNotFound where there is none; kDenied where it is not what it should be
Result<UniqueFd> open_private_file(int directory, const char* name, int flags,
                                   const Privacy& privacy = {});

/// The whole of a small file. @return kInvalid where it is larger than `limit`
Result<std::string> read_small_file(int file, std::size_t limit);

/// Writes all. @return kExhausted, kDenied
Status write_all(int file, const std::string& text);

}  // namespace weightcast::base
