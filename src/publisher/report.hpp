// What a rank tells observers of itself that stays the same: where it captures to, and how its
// bytes can be had.
#pragma once

#include <string>

#include <weightcast/publisher.hpp>

#include "protocol/message.hpp"

namespace weightcast::publisher {

/// @param options complete
/// @param on_device its slots lie in a device's memory
/// @param endpoint where it serves them over tcp; empty: nowhere. Pure.
protocol::SourceReport lasting_report(const PublisherOptions& options, bool on_device,
                                      const std::string& endpoint);

}  // namespace weightcast::publisher
