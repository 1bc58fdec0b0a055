#pragma once

#include <iosfwd>
#include <string>

namespace weightcast::cli {

/// Makes a folder of keys, and says what is in it and where it goes. No secret is printed.
/// @return the exit code
int keygen(const std::string& directory, std::ostream& out, std::ostream& err);

}  // namespace weightcast::cli
