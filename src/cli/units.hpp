// Options that are more than a number.
#pragma once

#include <string>

namespace CLI {
class Validator;
}

namespace weightcast::cli {

/// Turns "512MiB" or "1GB" into bytes, as the configuration writes sizes.
CLI::Validator size_option();

}  // namespace weightcast::cli
