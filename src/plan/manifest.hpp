// What one version is made of: which source holds which tensor, where, and with which digest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "base/digest.hpp"

namespace weightcast::plan {

/// One tensor, whole or a rank's box of it, inside a source's slot.
struct ShareEntry {
  TensorInfo info;  ///< dtype as published (after a cast)
  std::uint64_t offset =
      0;                ///< bytes from the start of the slot's payload, a multiple of kAlignment
  base::Digest digest;  ///< over info.bytes() canonical (contiguous) bytes, of the box alone
  bool operator==(const ShareEntry&) const = default;
};

/// Of a device's allocation, as other processes of the host know it.
inline constexpr std::size_t kDeviceHandleBytes = 64;

/// The part of a version that one source holds.
struct Share {
  std::uint32_t rank = 0;
  std::string object;               ///< name of the slot's shared-memory object
  std::uint64_t generation = 0;     ///< how often that slot had been written when it was sealed
  std::uint64_t payload_bytes = 0;  ///< up to the end of the last entry
  std::vector<ShareEntry> entries;
  std::string host{};      ///< identity of the host whose shared memory `object` lies in
  std::string endpoint{};  ///< "tcp://host:port" at which the source serves it; empty: not at all
  /// Identity of the device whose memory the payload lies in (then `object` is but its header and
  /// lock); empty: it lies in `object`.
  std::string device{};
  std::string device_memory{};      ///< kDeviceHandleBytes that name the device's allocation to others of the host
  std::uint64_t device_offset = 0;  ///< where in it the payload begins
  /// Identity, as NCCL tells GPUs apart, of the one by which the source sends the payload over NCCL to
  /// who asks at `endpoint`; empty: it does not.
  std::string nccl_device{};
  bool operator==(const Share&) const = default;
};

/// All shares of a version, by rank. A whole tensor stands in exactly one of them; one that is
/// sharded stands in several, each with a box. Shares that replicate it have equal boxes.
struct Manifest {
  std::vector<Share> shares;

  std::uint64_t bytes() const noexcept;       ///< of all entries
  std::size_t tensor_count() const noexcept;  ///< number of all entries
  bool operator==(const Manifest&) const = default;
};

/// Where entries begin inside a payload: a multiple of this many bytes (a cache line).
inline constexpr std::uint64_t kAlignment = 64;

/// Limits of what is believed of a peer; beyond them a manifest is refused.
inline constexpr std::size_t kMaxTensors = 1'000'000;
inline constexpr std::size_t kMaxDims = 16;
inline constexpr std::size_t kMaxNameBytes = 1024;

/// Checks one share on its own: names, dtypes, shapes and boxes without overflow, alignment,
/// entries inside the payload and not overlapping. @return kInvalid that names the entry.
Status check_share(const Share& share);

/// Checks, besides check_share for each, that shares are complete (ranks 0..n-1 once each, sorted);
/// that no name or alias stands in two of them but as boxes of one tensor, which agree on its
/// dtype, shape, aliases and kind; and that a tensor's boxes are identical or disjoint and fill it.
/// Takes time n log n in the number of entries: a share has one box of a tensor, so there are never
/// more of one tensor than shares, and no pair of them is looked at.
/// @return kInvalid that names the entry or what is missing of the tensor
Status check_manifest(const Manifest& manifest);

}  // namespace weightcast::plan
