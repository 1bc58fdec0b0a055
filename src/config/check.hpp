// Checks of whole options: each value, and combinations that cannot work.
#pragma once

#include <weightcast/status.hpp>

#include "config/settings.hpp"

namespace weightcast::config {

/// @return kInvalid that names the option, its value, where it came from (as far as `origins`
/// tells)
///   and what is allowed
Status check(const TrainerSettings& settings, const Origins& origins);
Status check(const WorkerSettings& settings, const Origins& origins);

/// " (flag --weightcast.slots)", or nothing for a key without an origin.
std::string from_where(const Origins& origins, std::string_view key);

}  // namespace weightcast::config
