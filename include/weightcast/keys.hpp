// Keys of a job whose members are on several hosts.
#pragma once

#include <string>

#include <weightcast/export.hpp>
#include <weightcast/status.hpp>

namespace weightcast {

/// Makes a folder (0700) with a new pair of keys for each role, and the lists that allow them:
///   trainer.secret  trainer.public  trainer.allowed  engine.secret  engine.public  engine.allowed
/// The two .secret files are for the owner alone; a trainer's host needs all but engine.secret, an
/// engine's host all but trainer.secret. Option `keys` of both sides names the folder.
/// It is there with all its files or not at all. Blocks for as long as the disk takes.
/// Thread safety: any thread.
/// @param folder may exist if it is empty; the directory above it must exist
/// @return kExists where the folder has anything in it (it is left alone), kNotFound, kDenied
WEIGHTCAST_API Status make_keys(const std::string& folder);

}  // namespace weightcast
