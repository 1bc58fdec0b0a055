#include "codec/convert_kernels.hpp"

#if WEIGHTCAST_HAVE_AVX2_KERNELS

#include <cpuid.h>
#include <immintrin.h>

#define WEIGHTCAST_AVX2_F16C __attribute__((target("avx2,f16c")))

namespace weightcast::codec::detail {
namespace {

// Eight rounded elements, each in the low half of its lane.
__attribute__((target("avx2"), always_inline)) inline __m256i bf16_lanes(__m256i bits) noexcept {
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7F800000));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  return _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC0), nan);
}

}  // namespace

bool have_avx2_casts() noexcept {
  static const bool have = [] {
    // clang 14's __builtin_cpu_supports does not know f16c.
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) != 0 &&
           (c & bit_F16C) != 0;
  }();
  return have;
}

__attribute__((target("avx2"))) void bf16_from_f32_avx2(std::byte* to, const std::byte* from,
                                                        std::uint64_t count) noexcept {
  std::uint64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i first =
        bf16_lanes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 4 * i)));
    const __m256i second =
        bf16_lanes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 4 * i + 32)));
    // packus works in each 128-bit half apart; the permutation puts the quarters in order.
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xD8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * i), packed);
  }
  for (; i + 8 <= count; i += 8) {
    const __m256i lanes =
        bf16_lanes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 4 * i)));
    const __m128i packed =
        _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i), packed);
  }
}

WEIGHTCAST_AVX2_F16C void f16_from_f32_avx2(std::byte* to, const std::byte* from,
                                            std::uint64_t count) noexcept {
  for (std::uint64_t i = 0; i + 8 <= count; i += 8) {
    const __m256 value = _mm256_loadu_ps(reinterpret_cast<const float*>(from + 4 * i));
    const __m128i half = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i), half);
  }
}

WEIGHTCAST_AVX2_F16C void f32_from_f16_avx2(std::byte* to, const std::byte* from,
                                            std::uint64_t count) noexcept {
  for (std::uint64_t i = 0; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i));
    _mm256_storeu_ps(reinterpret_cast<float*>(to + 4 * i), _mm256_cvtph_ps(half));
  }
}

}  // namespace weightcast::codec::detail

#endif
