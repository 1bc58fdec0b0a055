// Reads a TOML file's keys and values. Which of them are known is not its business.
#pragma once

#include <string>
#include <vector>

#include <weightcast/status.hpp>

#include "config/assignment.hpp"

namespace weightcast::config {

/// Keys at the top (Scope::kBoth), then those of [trainer] and [worker], each in the file's order.
/// @return kNotFound for a file that cannot be read; kInvalid, with the place, for one that is not
///   TOML, another section, or a value that is no text, whole number or truth
Result<std::vector<Assignment>> read_toml(const std::string& path);

}  // namespace weightcast::config
