// The additive digest of tensor bytes, alone and fused with a copy.
//
// Definition (the same for every place that computes it). A tensor's canonical bytes are its
// elements in row-major order; word i is its i-th 8 bytes, little-endian, the last one padded with
// zeros. With all sums modulo 2^64 and products of 32-bit halves being 64 bits wide:
//
//   x_i = w_i + (i + 1) * 0x9E3779B97F4A7C15
//   a   = sum over i of  lo(x_i) * hi(x_i) + rotl(x_i, 32)
//   b   = sum over i of (lo(x_i) * 0x85EBCA77) xor (hi(x_i) * 0xC2B2AE3D)
//
// Sums have no order, so threads, tiles and later GPU blocks need none. Parts cut at multiples of
// 8 bytes add up to the whole. It guards against accidents, not against attackers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/digest.hpp"

namespace weightcast::codec {

/// Digest of `bytes` bytes that begin at word `first_word` of their tensor.
/// `bytes` is a multiple of 8, except for the part that ends the tensor. No alignment is needed.
base::Digest digest(const void* data, std::size_t bytes, std::uint64_t first_word) noexcept;

/// Copies and returns the digest of what was read: for capture, where the bytes are sealed next.
/// Uses streaming stores (the destination is not read soon); fenced before return.
base::Digest copy_and_digest(void* destination, const void* source, std::size_t bytes,
                             std::uint64_t first_word) noexcept;

/// Copies, then reads the destination again and returns the digest of what lies there: for
/// placing. Goes in pieces that are read back from the first-level cache.
base::Digest copy_then_digest_placed(void* destination, const void* source, std::size_t bytes,
                                     std::uint64_t first_word) noexcept;

/// Portable reference of the definition above, word by word; the others equal it. For tests.
base::Digest digest_reference(const void* data, std::size_t bytes,
                              std::uint64_t first_word) noexcept;

}  // namespace weightcast::codec
