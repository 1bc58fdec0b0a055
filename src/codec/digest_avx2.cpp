// The digest with AVX2. Compiled for the baseline machine; only the marked functions use it, and
// digest.cpp calls them only where the processor says that it can.
#include "codec/digest_kernels.hpp"

#if WEIGHTCAST_HAVE_AVX2_KERNELS

#include <immintrin.h>

#define WEIGHTCAST_AVX2 __attribute__((target("avx2")))
#define WEIGHTCAST_AVX2_INLINE __attribute__((target("avx2"), always_inline)) inline

namespace weightcast::codec::detail {
namespace {

WEIGHTCAST_AVX2_INLINE void mix(__m256i& a, __m256i& b, __m256i words, __m256i positions) noexcept {
  const __m256i x = _mm256_add_epi64(words, positions);
  const __m256i high = _mm256_srli_epi64(x, 32);
  const __m256i rotated = _mm256_shuffle_epi32(x, 0xB1);  // swaps the halves of each word
  a = _mm256_add_epi64(a, _mm256_add_epi64(_mm256_mul_epu32(x, high), rotated));
  const __m256i low_part =
      _mm256_mul_epu32(x, _mm256_set1_epi64x(static_cast<long long>(kLowFactor)));
  const __m256i high_part =
      _mm256_mul_epu32(high, _mm256_set1_epi64x(static_cast<long long>(kHighFactor)));
  b = _mm256_add_epi64(b, _mm256_xor_si256(low_part, high_part));
}

WEIGHTCAST_AVX2_INLINE __m256i positions_from(std::uint64_t first_word) noexcept {
  const std::uint64_t at = (first_word + 1) * kPositionStep;
  return _mm256_set_epi64x(static_cast<long long>(at + 3 * kPositionStep),
                           static_cast<long long>(at + 2 * kPositionStep),
                           static_cast<long long>(at + kPositionStep), static_cast<long long>(at));
}

WEIGHTCAST_AVX2_INLINE std::uint64_t add_lanes(__m256i v) noexcept {
  alignas(32) std::uint64_t lane[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), v);
  return lane[0] + lane[1] + lane[2] + lane[3];
}

enum class Store { kNone, kOrdinary, kStreaming };

template <Store kStore>
WEIGHTCAST_AVX2_INLINE void store(std::byte* to, __m256i v) noexcept {
  if constexpr (kStore == Store::kStreaming) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), v);
  } else if constexpr (kStore == Store::kOrdinary) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
  }
}

// Two cache lines.
constexpr std::size_t kBlockWords = 16;

struct Block {
  __m256i w0, w1, w2, w3;
};

WEIGHTCAST_AVX2_INLINE Block load_block(const std::byte* from) noexcept {
  const auto* at = reinterpret_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1), _mm256_loadu_si256(at + 2),
          _mm256_loadu_si256(at + 3)};
}

template <Store kStore>
WEIGHTCAST_AVX2_INLINE void store_block(std::byte* to, const Block& block) noexcept {
  store<kStore>(to, block.w0);
  store<kStore>(to + 32, block.w1);
  store<kStore>(to + 64, block.w2);
  store<kStore>(to + 96, block.w3);
}

// The sums of the blocks so far, four words a vector; two pairs, for vectors mixed side by side.
struct Sums {
  __m256i a0, b0, a1, b1;
  __m256i position;  // of the next block's first vector
};

WEIGHTCAST_AVX2_INLINE Sums sums_from(std::uint64_t first_word) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  return {zero, zero, zero, zero, positions_from(first_word)};
}

WEIGHTCAST_AVX2_INLINE void mix_block(Sums& s, const Block& block) noexcept {
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(4 * kPositionStep));
  const __m256i p1 = _mm256_add_epi64(s.position, step);
  const __m256i p2 = _mm256_add_epi64(p1, step);
  const __m256i p3 = _mm256_add_epi64(p2, step);
  mix(s.a0, s.b0, block.w0, s.position);
  mix(s.a1, s.b1, block.w1, p1);
  mix(s.a0, s.b0, block.w2, p2);
  mix(s.a1, s.b1, block.w3, p3);
  s.position = _mm256_add_epi64(p3, step);
}

WEIGHTCAST_AVX2_INLINE base::Digest total(const Sums& s) noexcept {
  return {add_lanes(_mm256_add_epi64(s.a0, s.a1)), add_lanes(_mm256_add_epi64(s.b0, s.b1))};
}

// Words [i, words) one by one: what does not fill a block.
template <Store kStore>
WEIGHTCAST_AVX2_INLINE void run_rest(base::Digest& sum, std::byte* to, const std::byte* from,
                                     std::size_t i, std::size_t words,
                                     std::uint64_t first_word) noexcept {
  for (; i < words; ++i) {
    const std::uint64_t word = load_word(from + 8 * i);
    if constexpr (kStore != Store::kNone) std::memcpy(to + 8 * i, &word, sizeof word);
    mix_word(sum, word, (first_word + i + 1) * kPositionStep);
  }
}

template <Store kStore>
WEIGHTCAST_AVX2_INLINE base::Digest run_words(std::byte* to, const std::byte* from,
                                              std::size_t words, std::uint64_t first_word) noexcept {
  Sums sums = sums_from(first_word);
  std::size_t i = 0;
  for (; i + kBlockWords <= words; i += kBlockWords) {
    const Block block = load_block(from + 8 * i);
    if constexpr (kStore != Store::kNone) store_block<kStore>(to + 8 * i, block);
    mix_block(sums, block);
  }
  base::Digest sum = total(sums);
  run_rest<kStore>(sum, to, from, i, words, first_word);
  return sum;
}

WEIGHTCAST_AVX2 base::Digest digest_words_avx2(const std::byte* data, std::size_t words,
                                               std::uint64_t first_word) noexcept {
  return run_words<Store::kNone>(nullptr, data, words, first_word);
}

WEIGHTCAST_AVX2 base::Digest copy_words_avx2(std::byte* destination, const std::byte* source,
                                             std::size_t words, std::uint64_t first_word) noexcept {
  const auto misaligned = reinterpret_cast<std::uintptr_t>(destination) % 64;
  // Whole words never reach a line's start from an address that is no multiple of 8.
  if (misaligned % 8 != 0) {
    return run_words<Store::kOrdinary>(destination, source, words, first_word);
  }
  base::Digest sum;
  std::size_t head = misaligned == 0 ? 0 : (64 - misaligned) / 8;
  if (head > words) head = words;
  run_rest<Store::kOrdinary>(sum, destination, source, 0, head, first_word);
  sum += run_words<Store::kStreaming>(destination + 8 * head, source + 8 * head, words - head,
                                      first_word + head);
  _mm_sfence();
  return sum;
}

WEIGHTCAST_AVX2 base::Digest place_words_avx2(std::byte* destination, const std::byte* source,
                                              std::size_t words,
                                              std::uint64_t first_word) noexcept {
  static_assert(kPlacePieceWords % kBlockWords == 0);
  Sums sums = sums_from(first_word);
  std::size_t done = 0;
  for (; done + kPlacePieceWords <= words; done += kPlacePieceWords) {
    for (std::size_t i = done; i < done + kPlacePieceWords; i += kBlockWords) {
      store_block<Store::kOrdinary>(destination + 8 * i, load_block(source + 8 * i));
    }
    // What follows is read from memory; the compiler may not reuse the words just stored.
    asm volatile("" : : : "memory");
    for (std::size_t i = done; i < done + kPlacePieceWords; i += kBlockWords) {
      mix_block(sums, load_block(destination + 8 * i));
    }
  }
  base::Digest sum = total(sums);
  const std::size_t rest = words - done;
  if (rest == 0) return sum;
  std::memcpy(destination + 8 * done, source + 8 * done, 8 * rest);
  asm volatile("" : : : "memory");
  sum += run_words<Store::kNone>(nullptr, destination + 8 * done, rest, first_word + done);
  return sum;
}

}  // namespace

const Kernels kAvx2Kernels{digest_words_avx2, copy_words_avx2, place_words_avx2};

}  // namespace weightcast::codec::detail

#endif
