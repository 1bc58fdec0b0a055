// Casts between single elements, and the vector forms of those that a publish uses most.
//
// All casts go through f32, as torch's do (f64 to bf16 rounds twice there, too). Every form must
// give the same bits, because every rank must seal equal bytes, NaN included. For f16 a NaN keeps
// its sign and the top of its payload and becomes quiet: what the F16C instructions do, and so
// torch. For bf16 it becomes 0x7FC0, as in c10::BFloat16 (torch's own vector code writes 0xFFFF).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "codec/digest_kernels.hpp"

namespace weightcast::codec::detail {

inline std::uint16_t bf16_from_f32(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0;
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

inline float f32_from_bf16(std::uint16_t value) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16);
}

inline std::uint16_t f16_from_f32(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {
    return sign | 0x7E00 | static_cast<std::uint16_t>((magnitude >> 13) & 0x3FFu);
  }
  if (magnitude >= 0x47800000u) return sign | 0x7C00;  // 65536 and above
  if (magnitude < 0x38800000u) {
    // Below 2^-14, where f16 counts in steps of 2^-24: adding 0.5 leaves that count, rounded to
    // nearest even by the addition itself, in the low bits of the sum.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u);
  }
  // The exponent's bias goes from 127 to 15; 13 bits of the mantissa are rounded off. A carry
  // raises the exponent, up to infinity from 65520 on.
  const std::uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return sign | static_cast<std::uint16_t>((rounded - (112u << 23)) >> 13);
}

inline float f32_from_f16(std::uint16_t value) noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(value & 0x8000u) << 16;
  const std::uint32_t magnitude = value & 0x7FFFu;
  if (magnitude > 0x7C00u) {
    return std::bit_cast<float>(sign | 0x7FC00000u | (magnitude << 13));  // always a quiet NaN
  }
  if (magnitude == 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u);
  if (magnitude < 0x0400u) {
    const float steps = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(steps));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
}

#if WEIGHTCAST_HAVE_AVX2_KERNELS
/// True where the processor has AVX2 and F16C.
bool have_avx2_casts() noexcept;
/// Multiples of 8 elements; no alignment needed. Equal to the functions above bit for bit.
void bf16_from_f32_avx2(std::byte* to, const std::byte* from, std::uint64_t count) noexcept;
void f16_from_f32_avx2(std::byte* to, const std::byte* from, std::uint64_t count) noexcept;
void f32_from_f16_avx2(std::byte* to, const std::byte* from, std::uint64_t count) noexcept;
#endif

}  // namespace weightcast::codec::detail
