// What the system says of an error number.
#pragma once

#include <string>
#include <system_error>

namespace weightcast::base {

/// Thread safety: any thread; strerror() is not safe everywhere.
inline std::string errno_text(int error) { return std::generic_category().message(error); }

}  // namespace weightcast::base
