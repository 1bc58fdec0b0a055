// Collects what flags, environment and file say, from the weakest to the strongest.
#pragma once

#include <string>
#include <vector>

#include <weightcast/status.hpp>

#include "config/assignment.hpp"

namespace weightcast::config {

/// The file's common part, its sections, the environment, the flags: a later assignment of a key
/// goes before an earlier one. Every key is known, and stands in a section of a side that has it.
/// @return kInvalid that names an unknown key, where it stands and the nearest known one
Result<std::vector<Assignment>> gather(const ConfigSources& sources);

}  // namespace weightcast::config
