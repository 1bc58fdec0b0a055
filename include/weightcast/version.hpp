#pragma once

#include <weightcast/export.hpp>

namespace weightcast {

/// Version of the library that is loaded, as "major.minor.patch".
///
/// The string is static: valid for the life of the process. Thread-safe; never blocks or fails.
WEIGHTCAST_API const char* library_version() noexcept;

}  // namespace weightcast
