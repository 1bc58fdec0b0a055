// The digest of codec/digest.hpp as a device computes it, and copies what it reads where it is asked
// to: cut into tiles, each by one block whose threads take words in turns. Written without CUDA's own
// words, so that tests of the host run it, too, thread by thread. C++17 for nvcc's sake.
#pragma once

#include <cstdint>

#include "driver/kernel_macros.hpp"

namespace weightcast::driver {

/// A part of a tensor in the table that a device reads.
struct DigestEntry {
  const unsigned char* data = nullptr;
  std::uint64_t bytes = 0;
  std::uint64_t first_word = 0;
  std::uint64_t first_tile = 0;  ///< of the table's tiles
  std::uint64_t sum = 0;
  unsigned char* to = nullptr;  ///< where the bytes are copied as they are read; a multiple of 8
};

struct DigestSum {
  std::uint64_t a = 0;
  std::uint64_t b = 0;
};

inline constexpr std::uint64_t kLeastTile = 16 << 10;
inline constexpr std::uint64_t kMostTile = 128 << 10;

/// Bytes of a tile, a multiple of 16: small enough for each block to get several, so that parts of
/// very different sizes balance, and large enough that a tile's own costs do not matter.
inline std::uint64_t tile_bytes_for(std::uint64_t total_bytes, std::uint64_t blocks) {
  const std::uint64_t fair = total_bytes / (blocks * 8 + 1) / 1024 * 1024;
  return fair < kLeastTile ? kLeastTile : fair > kMostTile ? kMostTile : fair;
}

inline std::uint64_t tiles_of(std::uint64_t bytes, std::uint64_t tile_bytes) {
  return (bytes + tile_bytes - 1) / tile_bytes;
}

/// The entry that tile number `tile` belongs to: the last one that begins at or before it. Entries
/// have bytes, so no two begin at the same tile.
WEIGHTCAST_ANYWHERE std::uint32_t entry_of(const DigestEntry* entries, std::uint32_t count,
                                           std::uint64_t tile) {
  std::uint32_t low = 0, high = count;
  while (high - low > 1) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (entries[middle].first_tile <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

namespace tile {

inline constexpr std::uint64_t kStep = 0x9E3779B97F4A7C15u;
inline constexpr std::uint32_t kLow = 0x85EBCA77u;
inline constexpr std::uint32_t kHigh = 0xC2B2AE3Du;

WEIGHTCAST_ANYWHERE void mix(DigestSum& sum, std::uint64_t word, std::uint64_t position) {
  const std::uint64_t x = word + position;
  const auto low = static_cast<std::uint32_t>(x);
  const auto high = static_cast<std::uint32_t>(x >> 32);
  sum.a += static_cast<std::uint64_t>(low) * high + ((x << 32) | high);
  sum.b += (static_cast<std::uint64_t>(low) * kLow) ^ (static_cast<std::uint64_t>(high) * kHigh);
}

/// As many bytes as one thread reads at once.
struct alignas(16) Pair {
  std::uint64_t first;
  std::uint64_t second;
};

/// Read once and not again soon.
template <class T>
WEIGHTCAST_ANYWHERE T load(const unsigned char* from) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 16) {
    const ulonglong2 value = __ldcs(reinterpret_cast<const ulonglong2*>(from));
    return {value.x, value.y};
  } else if constexpr (sizeof(T) == 8) {
    return __ldcs(reinterpret_cast<const unsigned long long*>(from));
  } else {
    return *reinterpret_cast<const T*>(from);
  }
#else
  return *reinterpret_cast<const T*>(from);
#endif
}

/// Written once and not read again soon.
template <class T>
WEIGHTCAST_ANYWHERE void store(unsigned char* to, const T& value) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 16) {
    __stcs(reinterpret_cast<ulonglong2*>(to), make_ulonglong2(value.first, value.second));
  } else {
    __stcs(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
  }
#else
  *reinterpret_cast<T*>(to) = value;
#endif
}

/// A word of 8 bytes out of pieces that are aligned.
template <class Piece>
WEIGHTCAST_ANYWHERE std::uint64_t load_word(const unsigned char* from) {
  std::uint64_t word = 0;
  for (unsigned i = 0; i < 8 / sizeof(Piece); ++i) {
    word |= static_cast<std::uint64_t>(load<Piece>(from + i * sizeof(Piece)))
            << (8 * i * sizeof(Piece));
  }
  return word;
}

/// Pairs of words, all of them aligned.
template <bool kCopies>
WEIGHTCAST_ANYWHERE void add_pairs(DigestSum& sum, const unsigned char* data, unsigned char* to,
                                   std::uint32_t pairs, std::uint64_t first, std::uint32_t thread,
                                   std::uint32_t threads) {
  constexpr std::uint32_t kAtOnce = 4;  // loads that are under way before the first is used
  std::uint32_t at = thread;
  std::uint64_t position = (first + 2 * static_cast<std::uint64_t>(at) + 1) * kStep;
  const std::uint64_t advance = 2 * static_cast<std::uint64_t>(threads) * kStep;
  for (; at + (kAtOnce - 1) * threads < pairs; at += kAtOnce * threads) {
    Pair pair[kAtOnce];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      pair[i] = load<Pair>(data + 16 * static_cast<std::uint64_t>(at + i * threads));
    }
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      if constexpr (kCopies) store(to + 16 * static_cast<std::uint64_t>(at + i * threads), pair[i]);
      mix(sum, pair[i].first, position);
      mix(sum, pair[i].second, position + kStep);
      position += advance;
    }
  }
  for (; at < pairs; at += threads) {
    const Pair pair = load<Pair>(data + 16 * static_cast<std::uint64_t>(at));
    if constexpr (kCopies) store(to + 16 * static_cast<std::uint64_t>(at), pair);
    mix(sum, pair.first, position);
    mix(sum, pair.second, position + kStep);
    position += advance;
  }
}

template <class Piece, bool kCopies>
WEIGHTCAST_ANYWHERE void add_words(DigestSum& sum, const unsigned char* data, unsigned char* to,
                                   std::uint32_t words, std::uint64_t first, std::uint32_t thread,
                                   std::uint32_t threads) {
  constexpr std::uint32_t kAtOnce = 4;
  std::uint32_t at = thread;
  std::uint64_t position = (first + at + 1) * kStep;
  const std::uint64_t advance = threads * kStep;
  for (; at + (kAtOnce - 1) * threads < words; at += kAtOnce * threads) {
    std::uint64_t word[kAtOnce];
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      word[i] = load_word<Piece>(data + 8 * static_cast<std::uint64_t>(at + i * threads));
    }
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (std::uint32_t i = 0; i < kAtOnce; ++i) {
      if constexpr (kCopies) store(to + 8 * static_cast<std::uint64_t>(at + i * threads), word[i]);
      mix(sum, word[i], position);
      position += advance;
    }
  }
  for (; at < words; at += threads) {
    const std::uint64_t word = load_word<Piece>(data + 8 * static_cast<std::uint64_t>(at));
    if constexpr (kCopies) store(to + 8 * static_cast<std::uint64_t>(at), word);
    mix(sum, word, position);
    position += advance;
  }
}

}  // namespace tile

namespace tile {

template <bool kCopies>
WEIGHTCAST_ANYWHERE void add(DigestSum& sum, const DigestEntry& entry, std::uint64_t tile,
                             std::uint64_t tile_bytes, std::uint32_t thread,
                             std::uint32_t threads) {
  const std::uint64_t skipped = (tile - entry.first_tile) * tile_bytes;
  const std::uint64_t left = entry.bytes - skipped;
  const std::uint64_t bytes = left < tile_bytes ? left : tile_bytes;
  const unsigned char* data = entry.data + skipped;
  unsigned char* to = kCopies ? entry.to + skipped : nullptr;
  const std::uint64_t first = entry.first_word + skipped / 8;
  auto words = static_cast<std::uint32_t>(bytes / 8);
  const auto address = reinterpret_cast<std::uintptr_t>(data);

  if (address % 16 == 0 && reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    add_pairs<kCopies>(sum, data, to, words / 2, first, thread, threads);
    if (words % 2 != 0 && thread == 0) {
      const std::uint64_t at = 8 * static_cast<std::uint64_t>(words - 1);
      const auto word = load<std::uint64_t>(data + at);
      if constexpr (kCopies) store(to + at, word);
      mix(sum, word, (first + words) * kStep);
    }
  } else if (address % 8 == 0) {
    add_words<std::uint64_t, kCopies>(sum, data, to, words, first, thread, threads);
  } else if (address % 4 == 0) {
    add_words<std::uint32_t, kCopies>(sum, data, to, words, first, thread, threads);
  } else if (address % 2 == 0) {
    add_words<std::uint16_t, kCopies>(sum, data, to, words, first, thread, threads);
  } else {
    add_words<std::uint8_t, kCopies>(sum, data, to, words, first, thread, threads);
  }

  const auto rest = static_cast<std::uint32_t>(bytes % 8);
  if (rest != 0 && thread == 0) {
    const std::uint64_t at = 8 * static_cast<std::uint64_t>(words);
    std::uint64_t word = 0;
    for (std::uint32_t i = 0; i < rest; ++i) {
      const unsigned char byte = data[at + i];
      if constexpr (kCopies) to[at + i] = byte;
      word |= static_cast<std::uint64_t>(byte) << (8 * i);
    }
    mix(sum, word, (first + words + 1) * kStep);
  }
}

}  // namespace tile

/// What one of a block's threads adds for one tile, and copies of it. Touches no byte outside of the
/// part.
WEIGHTCAST_ANYWHERE void add_tile(DigestSum& sum, const DigestEntry& entry, std::uint64_t tile,
                                  std::uint64_t tile_bytes, std::uint32_t thread,
                                  std::uint32_t threads) {
  if (entry.to != nullptr) {
    tile::add<true>(sum, entry, tile, tile_bytes, thread, threads);
  } else {
    tile::add<false>(sum, entry, tile, tile_bytes, thread, threads);
  }
}

}  // namespace weightcast::driver
