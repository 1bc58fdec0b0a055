// Values from the environment, read in one place and checked. Options structs are filled from them;
// nothing deeper in the library looks at the environment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <weightcast/status.hpp>

namespace weightcast::base {

/// The variable's value; none where it is unset or empty.
std::optional<std::string> environment(const char* name);

/// The variable as a number. @return kInvalid that names the variable, its value and the range
Result<std::optional<std::uint64_t>> environment_number(const char* name, std::uint64_t least,
                                                        std::uint64_t most);

/// Checks a job's, policy's or receiver's name: 1 to 64 characters of [A-Za-z0-9_-].
Status check_name(const char* what, const std::string& name);

/// Sets the log level from WEIGHTCAST_LOG (debug, info, warn, error, off) where that is set.
Status apply_log_level();

}  // namespace weightcast::base
