// Whether a member is what its key says.
#pragma once

#include <optional>

#include <weightcast/status.hpp>

#include "keys/key_ring.hpp"
#include "protocol/message.hpp"

namespace weightcast::stream {

/// A trainer's key speaks for sources, an engine's for receivers.
/// @param proven the role of the connection's key; none where it came by a way that only this
///   user's processes have, where each is believed
/// @return kDenied, with what to do. Pure.
Status check_role(std::optional<keys::Role> proven, const protocol::Member& claimed);

}  // namespace weightcast::stream
