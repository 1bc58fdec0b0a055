// The digest's definition word by word, and the choice of its fastest form on this machine.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/digest.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#define WEIGHTCAST_HAVE_AVX2_KERNELS 1
#else
#define WEIGHTCAST_HAVE_AVX2_KERNELS 0
#endif

namespace weightcast::codec::detail {

static_assert(std::endian::native == std::endian::little,
              "a digest's words are little-endian; a big-endian machine needs a byte swap here");

inline constexpr std::uint64_t kPositionStep = 0x9E3779B97F4A7C15u;
inline constexpr std::uint64_t kLowFactor = 0x85EBCA77u;
inline constexpr std::uint64_t kHighFactor = 0xC2B2AE3Du;

/// Adds the term of one word. @param position (i + 1) * kPositionStep for word i
inline void mix_word(base::Digest& sum, std::uint64_t word, std::uint64_t position) noexcept {
  const std::uint64_t x = word + position;
  const std::uint64_t low = x & 0xFFFFFFFFu;
  const std::uint64_t high = x >> 32;
  sum.a += low * high + std::rotl(x, 32);
  sum.b += (low * kLowFactor) ^ (high * kHighFactor);
}

inline std::uint64_t load_word(const std::byte* from) noexcept {
  std::uint64_t word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

/// The tensor's last, partial word: `bytes` of 1..7, padded with zeros.
inline std::uint64_t load_partial_word(const std::byte* from, std::size_t bytes) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, from, bytes);
  return word;
}

/// Whole words only; the callers handle what a tensor's last word lacks.
struct Kernels {
  base::Digest (*digest_words)(const std::byte* data, std::size_t words,
                               std::uint64_t first_word) noexcept;
  /// The stores are fenced before return.
  base::Digest (*copy_words)(std::byte* destination, const std::byte* source, std::size_t words,
                             std::uint64_t first_word) noexcept;
  /// Digests what it reads back from the destination.
  base::Digest (*place_words)(std::byte* destination, const std::byte* source, std::size_t words,
                              std::uint64_t first_word) noexcept;
};

/// How much is placed before it is read back. Measured for 512 MB in memcpys of the same bytes on a
/// busy machine: 512 bytes 1.2, 1 KiB 1.2-1.4, 2 KiB 1.4, 4 KiB 1.6-1.8, 128 KiB 1.7. So short that
/// the processor loads the next piece while it digests this one.
inline constexpr std::size_t kPlacePieceWords = 512 / 8;

extern const Kernels kPortableKernels;
#if WEIGHTCAST_HAVE_AVX2_KERNELS
/// Only to be called where the processor has AVX2.
extern const Kernels kAvx2Kernels;
#endif

}  // namespace weightcast::codec::detail
