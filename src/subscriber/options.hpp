// Checks of SubscriberOptions.
#pragma once

#include <weightcast/subscriber.hpp>

namespace weightcast::subscriber {

/// Fills in the name where it is empty. @return kInvalid that names the option, its value and what
/// is allowed
Status complete_options(SubscriberOptions& options);

}  // namespace weightcast::subscriber
