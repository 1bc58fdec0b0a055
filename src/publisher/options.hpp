// Checks of PublisherOptions, as a program gave them.
#pragma once

#include <weightcast/publisher.hpp>

namespace weightcast::publisher {

/// @return kInvalid that names the option, its value and what is allowed
Status check_options(const PublisherOptions& options);

}  // namespace weightcast::publisher
