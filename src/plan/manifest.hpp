// What one version is made of: which source holds which tensor, where, and with which digest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "base/digest.hpp"

namespace weightcast::plan {

/// One whole tensor inside a source's slot.
struct ShareEntry {
  TensorInfo info;           ///< dtype as published (after a cast)
  std::uint64_t offset = 0;  ///< bytes from the start of the slot's payload, a multiple of kAlignment
  base::Digest digest;       ///< over info.bytes() canonical (contiguous) bytes
  bool operator==(const ShareEntry&) const = default;
};

/// The part of a version that one source holds.
struct Share {
  std::uint32_t rank = 0;
  std::string object;               ///< name of the slot's shared-memory object
  std::uint64_t generation = 0;     ///< how often that slot had been written when it was sealed
  std::uint64_t payload_bytes = 0;  ///< up to the end of the last entry
  std::vector<ShareEntry> entries;
  std::string host{};      ///< identity of the host whose shared memory `object` lies in
  std::string endpoint{};  ///< "tcp://host:port" at which the source serves it; empty: not at all
  bool operator==(const Share&) const = default;
};

/// All shares of a version, by rank. Every tensor (and alias) stands in exactly one of them.
struct Manifest {
  std::vector<Share> shares;

  std::uint64_t bytes() const noexcept;
  std::size_t tensor_count() const noexcept;
  bool operator==(const Manifest&) const = default;
};

/// Where entries begin inside a payload: a multiple of this many bytes (a cache line).
inline constexpr std::uint64_t kAlignment = 64;

/// Limits of what is believed of a peer; beyond them a manifest is refused.
inline constexpr std::size_t kMaxTensors = 1'000'000;
inline constexpr std::size_t kMaxDims = 16;
inline constexpr std::size_t kMaxNameBytes = 1024;

/// Checks one share on its own: names, dtypes, shapes without overflow, alignment, entries inside
/// the payload and not overlapping. @return kInvalid that names the entry.
Status check_share(const Share& share);

/// Checks that shares are complete (ranks 0..n-1 once each, sorted) and that no name or alias
/// stands in two of them, besides check_share for each.
Status check_manifest(const Manifest& manifest);

}  // namespace weightcast::plan
