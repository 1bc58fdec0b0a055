// Which of the engines that ask for a share take it off the wire, and which get it from one of those
// inside their host. NCCL takes a GPU once, and takes 1 GB of it for each process that it is in; so of
// engines that can read each other's device memory one is enough.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace weightcast::plan {

struct NcclCandidate {
  std::string name;        ///< names differ
  std::string place;       ///< engines of the same one can share a leader; empty: it is its own
  bool is_joined = false;  ///< it still is in a communicator of this share's source
};

inline constexpr std::uint32_t kNoLeader = 0xffffffff;

struct NcclSeat {
  std::uint32_t leader = kNoLeader;  ///< index of a candidate: itself, or who it gets the bytes from;
                                     ///< kNoLeader: it has to wait, its leader's seats are taken
  std::uint32_t seat = 0;            ///< among its leader's neighbours
  bool operator==(const NcclSeat&) const = default;
};

/// Pure. A place's leader is the first by name of those who are joined, so that communicators stay when
/// engines come and go; where none is, the first by name, so that one engine leads for all sources.
/// Time: candidates times the logarithm of their number.
/// @param most_seats neighbours of a leader
/// @return by candidate
std::vector<NcclSeat> choose_leaders(std::span<const NcclCandidate> candidates,
                                     std::uint32_t most_seats);

}  // namespace weightcast::plan
