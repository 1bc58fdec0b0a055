// What load_nccl() gives: the functions of a library that is loaded here.
#pragma once

#include <memory>
#include <string>

#include "driver/nccl.hpp"

namespace weightcast::driver {

/// Loads it for as long as the process lives.
/// @param file a path, or a name that the loader searches
/// @return kUnavailable: no such library, one that is too old, or one that lacks a function
Result<std::shared_ptr<Nccl>> open_nccl(const std::string& file);

}  // namespace weightcast::driver
