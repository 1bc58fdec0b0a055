// A look at a message before it is parsed: how many elements it would make. Two bytes on the wire
// become a hundred and more in memory, so that a limit on bytes alone would bound nothing.
#pragma once

#include <cstddef>
#include <span>

#include <weightcast/status.hpp>

namespace weightcast::protocol {

/// Walks the repeated fields of an Envelope of this protocol version without allocating.
/// Thread safety: pure.
/// @return kInvalid where a list is longer than its limit or the bytes are no Protocol Buffers
Status check_limits(std::span<const std::byte> bytes);

}  // namespace weightcast::protocol
