// The value of a digest: 128 bits that add up, so that the parts of a tensor make its whole.
// How it is computed from bytes stands in codec/digest.hpp.
#pragma once

#include <cstdint>

namespace weightcast::base {

struct Digest {
  std::uint64_t a = 0;
  std::uint64_t b = 0;

  /// Adds the digest of another part of the same tensor (each half modulo 2^64).
  Digest& operator+=(const Digest& other) noexcept {
    a += other.a;
    b += other.b;
    return *this;
  }
  Digest& operator-=(const Digest& other) noexcept {
    a -= other.a;
    b -= other.b;
    return *this;
  }
  friend Digest operator+(Digest x, const Digest& y) noexcept { return x += y; }
  friend bool operator==(const Digest&, const Digest&) = default;
};

}  // namespace weightcast::base
