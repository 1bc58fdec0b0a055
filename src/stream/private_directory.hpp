// Directories that nobody but this user can look into or change.
#pragma once

#include <string>

#include <weightcast/status.hpp>

#include "base/unique_fd.hpp"

namespace weightcast::stream {

/// Opens a directory that exists. @return kNotFound where there is none; kDenied with a remedy where
/// it is a link, somebody else's, or open to others
Result<base::UniqueFd> open_private_directory(const std::string& path);

/// The same, after making it (0700) where nothing is there. Its parent must exist.
Result<base::UniqueFd> make_private_directory(const std::string& path);

/// Opens it and takes an exclusive flock on it, by which those who change its files exclude each
/// other for moments. Waits for at most 200 ms. @return kUnavailable after that
Result<base::UniqueFd> lock_private_directory(const std::string& path);

/// An ordinary file of ours inside such a directory, or one made new, 0600 with O_CREAT in `flags`.
/// Never follows a link nor waits for a pipe's other end.
/// @return kNotFound where there is none; kDenied where it is not what it should be
Result<base::UniqueFd> open_private_file(int directory, const char* name, int flags);

/// The whole of a small file. @return kInvalid where it is larger than `limit`
Result<std::string> read_small_file(int file, std::size_t limit);

/// Writes all. @return kExhausted, kDenied
Status write_all(int file, const std::string& text);

}  // namespace weightcast::stream
