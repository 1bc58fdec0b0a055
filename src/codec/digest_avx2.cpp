// The digest with AVX2. Compiled for the baseline machine; only the marked functions use it, and
// digest.cpp calls them only where the processor says that it can.
#include "codec/digest_kernels.hpp"

#if WEIGHTCAST_HAVE_AVX2_KERNELS

#include <immintrin.h>

#define WEIGHTCAST_AVX2 __attribute__((target("avx2")))
#define WEIGHTCAST_AVX2_INLINE __attribute__((target("avx2"), always_inline)) inline

namespace weightcast::codec::detail {
namespace {

// Four words a vector. One pair of sums for each of the two vectors that are mixed side by side.
struct Sums {
  __m256i a0, b0, a1, b1;
};

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

template <Store kStore>
WEIGHTCAST_AVX2_INLINE base::Digest run_words(std::byte* to, const std::byte* from,
                                              std::size_t words, std::uint64_t first_word) noexcept {
  const __m256i zero = _mm256_setzero_si256();
  const __m256i step = _mm256_set1_epi64x(static_cast<long long>(4 * kPositionStep));
  Sums s{zero, zero, zero, zero};
  __m256i position = positions_from(first_word);
  std::size_t i = 0;
  for (; i + 16 <= words; i += 16) {
    // Two cache lines at once: streaming stores leave in whole lines.
    const std::byte* at = from + 8 * i;
    const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 32));
    const __m256i w2 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 64));
    const __m256i w3 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 96));
    if constexpr (kStore != Store::kNone) {
      store<kStore>(to + 8 * i, w0);
      store<kStore>(to + 8 * i + 32, w1);
      store<kStore>(to + 8 * i + 64, w2);
      store<kStore>(to + 8 * i + 96, w3);
    }
    const __m256i p1 = _mm256_add_epi64(position, step);
    const __m256i p2 = _mm256_add_epi64(p1, step);
    const __m256i p3 = _mm256_add_epi64(p2, step);
    mix(s.a0, s.b0, w0, position);
    mix(s.a1, s.b1, w1, p1);
    mix(s.a0, s.b0, w2, p2);
    mix(s.a1, s.b1, w3, p3);
    position = _mm256_add_epi64(p3, step);
  }
  base::Digest sum{add_lanes(_mm256_add_epi64(s.a0, s.a1)), add_lanes(_mm256_add_epi64(s.b0, s.b1))};
  for (; i < words; ++i) {
    const std::uint64_t word = load_word(from + 8 * i);
    if constexpr (kStore != Store::kNone) std::memcpy(to + 8 * i, &word, sizeof word);
    mix_word(sum, word, (first_word + i + 1) * kPositionStep);
  }
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
  for (std::size_t i = 0; i < head; ++i) {
    const std::uint64_t word = load_word(source + 8 * i);
    std::memcpy(destination + 8 * i, &word, sizeof word);
    mix_word(sum, word, (first_word + i + 1) * kPositionStep);
  }
  sum += run_words<Store::kStreaming>(destination + 8 * head, source + 8 * head, words - head,
                                      first_word + head);
  _mm_sfence();
  return sum;
}

}  // namespace

const Kernels kAvx2Kernels{digest_words_avx2, copy_words_avx2};

}  // namespace weightcast::codec::detail

#endif
