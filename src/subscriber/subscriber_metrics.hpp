// What a subscriber shows as metrics.
#pragma once

#include <weightcast/subscriber.hpp>

#include "metrics/samples.hpp"
#include "subscriber/attempt_counts.hpp"
#include "subscriber/leases.hpp"
#include "subscriber/serving.hpp"

namespace weightcast::subscriber {

/// Adds one engine's samples. Thread safety: any thread.
void add_samples(const SubscriberOptions& options, const Serving& serving, const LeaseBook& leases,
                 const AttemptCounts& attempts, metrics::Samples& samples);

}  // namespace weightcast::subscriber
