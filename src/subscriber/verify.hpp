// Checks placed bytes against the digests of their source.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/manifest.hpp"

namespace weightcast::subscriber {

/// Adds up the digests of one share's tensors from the ranges of its payload that have been placed,
/// in any order. Thread safety: add() from many threads at once.
class ShareVerifier {
 public:
  /// `share` has passed plan::check_share and outlives this.
  explicit ShareVerifier(const plan::Share& share);

  /// `placed` lies where payload bytes [offset, offset + placed.size()) belong. Both ends are at
  /// multiples of plan::kAlignment, or at the payload's end.
  void add(std::uint64_t offset, std::span<const std::byte> placed);

  /// Once all of the payload was added. @return kMismatch that names the tensor
  Status check() const;

 private:
  struct Sum {
    std::atomic<std::uint64_t> a{0};
    std::atomic<std::uint64_t> b{0};
  };
  const plan::Share& share_;
  std::vector<std::uint32_t> by_offset_;  ///< entries as they lie in the payload
  std::vector<Sum> sums_;                 ///< one an entry
};

}  // namespace weightcast::subscriber
