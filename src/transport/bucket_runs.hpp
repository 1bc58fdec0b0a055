// Where the bytes of a bucket lie in its segment's payload.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/transport.hpp"

namespace weightcast::transport {

/// Bytes of all runs together. Thread safety: pure, as all here.
/// @return kInvalid for an empty run, runs that overlap their successors, runs outside the payload,
///   or a sum that does not fit 64 bits
Result<std::uint64_t> check_strips(std::span<const Strip> strips, std::uint64_t payload_bytes);

/// Whether a segment of that size can give the bucket, and its destination can take it.
/// @return kInvalid that names the bucket
Status check_bucket(const Bucket& bucket, std::uint64_t payload_bytes);

/// Calls each(at, piece) for `bytes` bytes at `offset`, or for the runs of `strips` where there are
/// any, in order; `at` counts the bucket's bytes, a piece has at most `piece_bytes`. Needs checked
/// arguments.
/// @param each returns false to end early
/// @return whether it came to the end
template <class Each>
bool each_piece(std::span<const std::byte> payload, std::uint64_t offset, std::uint64_t bytes,
                std::span<const Strip> strips, std::size_t piece_bytes, Each&& each) {
  std::uint64_t at = 0;
  const auto run = [&](std::uint64_t from, std::uint64_t count) {
    for (std::uint64_t done = 0; done < count;) {
      const std::uint64_t piece = std::min<std::uint64_t>(piece_bytes, count - done);
      if (!each(static_cast<std::size_t>(at), payload.subspan(from + done, piece))) return false;
      done += piece;
      at += piece;
    }
    return true;
  };
  if (strips.empty()) return run(offset, bytes);
  for (const Strip& strip : strips) {
    for (std::uint64_t i = 0; i < strip.count; ++i) {
      if (!run(strip.offset + i * strip.stride, strip.bytes)) return false;
    }
  }
  return true;
}

}  // namespace weightcast::transport
