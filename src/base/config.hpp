// Values from the environment, read in one place and checked. Options structs are filled from them;
// nothing deeper in the library looks at the environment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <weightcast/status.hpp>

namespace weightcast::base {

/// The variable's value; none where it is unset or empty.
std::optional<std::string> environment(const char* name);

/// The variable as a number. @return kInvalid that names the variable, its value and the range
Result<std::optional<std::uint64_t>> environment_number(const char* name, std::uint64_t least,
                                                        std::uint64_t most);

/// All variables whose names begin so and that are not empty, by name.
std::vector<std::pair<std::string, std::string>> environment_with_prefix(std::string_view prefix);

/// What a job's, policy's or receiver's name is.
inline constexpr const char* kNameRule = "1 to 64 characters of A-Z, a-z, 0-9, _ and -";
bool is_name(std::string_view text) noexcept;

}  // namespace weightcast::base
