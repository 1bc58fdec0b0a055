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

  /// Looks at payload bytes [offset, offset + bytes.size()) where they lie. Both ends are at
  /// multiples of plan::kAlignment, or at the payload's end.
  void add(std::uint64_t offset, std::span<const std::byte> bytes);

  /// Copies payload bytes that begin at `offset` to `destination` and looks at them there. Gaps
  /// between tensors are left as they are. Ends as above.
  void place(std::uint64_t offset, std::byte* destination, std::span<const std::byte> source);

  /// Once all of the payload was added. @return kMismatch that names the tensor
  Status check() const;

 private:
  struct Sum {
    std::atomic<std::uint64_t> a{0};
    std::atomic<std::uint64_t> b{0};
  };
  /// Calls look(first byte in the tensor, first byte in the range, bytes) for each tensor that
  /// meets the range, and adds what it returns to that tensor's sum.
  template <class Look>
  void each_tensor(std::uint64_t offset, std::uint64_t bytes, Look&& look);

  const plan::Share& share_;
  std::vector<std::uint32_t> by_offset_;  ///< entries as they lie in the payload
  std::vector<Sum> sums_;                 ///< one an entry
};

}  // namespace weightcast::subscriber
