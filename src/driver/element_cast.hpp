// The casts of codec/convert_kernels.hpp as a device does them: on bits, because a device's own
// conversions make every NaN the same one. Tests run them on the host. C++17 for nvcc's sake.
#pragma once

#include <cstdint>
#include <cstring>

#include "driver/kernel_macros.hpp"

namespace weightcast::driver::element {

template <class To, class From>
WEIGHTCAST_ANYWHERE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits as another type");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Each element type becomes the bits of an f32 and is made of them.

struct F32 {
  using Bits = std::uint32_t;
  WEIGHTCAST_ANYWHERE static std::uint32_t widen(Bits value) { return value; }
  WEIGHTCAST_ANYWHERE static Bits narrow(std::uint32_t bits) { return bits; }
};

struct F64 {
  using Bits = std::uint64_t;
  WEIGHTCAST_ANYWHERE static std::uint32_t widen(Bits value) {
    const std::uint64_t magnitude = value & 0x7FFFFFFFFFFFFFFFu;
    if (magnitude > 0x7FF0000000000000u) {
      // As x86 does it: sign and the payload's top stay, and it becomes quiet.
      return static_cast<std::uint32_t>(value >> 63 << 31) | 0x7FC00000u |
             static_cast<std::uint32_t>((magnitude >> 29) & 0x3FFFFFu);
    }
    return bits_as<std::uint32_t>(static_cast<float>(bits_as<double>(value)));
  }
  WEIGHTCAST_ANYWHERE static Bits narrow(std::uint32_t bits) {
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
      return static_cast<std::uint64_t>(bits >> 31) << 63 | 0x7FF8000000000000u |
             static_cast<std::uint64_t>(magnitude & 0x3FFFFFu) << 29;
    }
    return bits_as<std::uint64_t>(static_cast<double>(bits_as<float>(bits)));
  }
};

struct BF16 {
  using Bits = std::uint16_t;
  WEIGHTCAST_ANYWHERE static std::uint32_t widen(Bits value) {
    return static_cast<std::uint32_t>(value) << 16;
  }
  WEIGHTCAST_ANYWHERE static Bits narrow(std::uint32_t bits) {
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0;
    return static_cast<Bits>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
};

struct F16 {
  using Bits = std::uint16_t;
  WEIGHTCAST_ANYWHERE static std::uint32_t widen(Bits value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value & 0x8000u) << 16;
    const std::uint32_t magnitude = value & 0x7FFFu;
    if (magnitude > 0x7C00u) return sign | 0x7FC00000u | (magnitude << 13);
    if (magnitude == 0x7C00u) return sign | 0x7F800000u;
    if (magnitude < 0x0400u) {
      const float steps = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
      return sign | bits_as<std::uint32_t>(steps);
    }
    return sign | ((magnitude << 13) + (112u << 23));
  }
  WEIGHTCAST_ANYWHERE static Bits narrow(std::uint32_t bits) {
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) {
      return static_cast<Bits>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
    }
    if (magnitude >= 0x47800000u) return static_cast<Bits>(sign | 0x7C00u);
    if (magnitude < 0x38800000u) {
      // Counts in steps of 2^-24; the addition rounds to nearest even by itself.
      const float shifted = bits_as<float>(magnitude) + 0.5f;
      return static_cast<Bits>(sign | (bits_as<std::uint32_t>(shifted) - 0x3F000000u));
    }
    const std::uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
    return static_cast<Bits>(sign | ((rounded - (112u << 23)) >> 13));
  }
};

}  // namespace weightcast::driver::element
