#include <weightcast/version.hpp>

namespace weightcast {

const char* library_version() noexcept { return WEIGHTCAST_VERSION; }

}  // namespace weightcast
