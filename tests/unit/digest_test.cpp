#include "codec/digest.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "codec/digest_kernels.hpp"
#include "support/seeded.hpp"

namespace weightcast::codec {
namespace {

using Bytes = std::vector<std::byte>;

using weightcast::test::seeded;

Bytes random_bytes(std::mt19937_64& random, std::size_t count) {
  Bytes bytes(count);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

// The definition in digest.hpp once more, with 128-bit arithmetic instead of wrapping, so that the
// reference is compared with something that shares no code with it.
base::Digest by_the_book(const Bytes& bytes, std::uint64_t first_word) {
  __extension__ using Wide = unsigned __int128;
  constexpr Wide kWord = Wide{1} << 64;
  Wide a = 0, b = 0;
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    Wide w = 0;
    for (std::size_t k = 0; k < 8 && at + k < bytes.size(); ++k) {
      w |= Wide{static_cast<unsigned char>(bytes[at + k])} << (8 * k);
    }
    const Wide x = (w + Wide{first_word + at / 8 + 1} * 0x9E3779B97F4A7C15u) % kWord;
    const Wide lo = x % (Wide{1} << 32), hi = x >> 32;
    a = (a + lo * hi + (lo << 32) + hi) % kWord;
    b = (b + ((lo * 0x85EBCA77u) ^ (hi * 0xC2B2AE3Du))) % kWord;
  }
  return {static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b)};
}

std::vector<const detail::Kernels*> all_kernels() {
  std::vector<const detail::Kernels*> kernels{&detail::kPortableKernels};
#if WEIGHTCAST_HAVE_AVX2_KERNELS
  if (__builtin_cpu_supports("avx2")) kernels.push_back(&detail::kAvx2Kernels);
#endif
  return kernels;
}

std::array<std::size_t, 22> interesting_sizes() {
  return {0,  1,  7,   8,   9,   15,  16,  31,  63,   64,    65,
          96, 127, 128, 129, 255, 511, 512, 520, 1024, 4099, 70001};
}

TEST(Digest, ReferenceFollowsTheDefinition) {
  std::mt19937_64 random = seeded("ReferenceFollowsTheDefinition");
  for (std::size_t size : interesting_sizes()) {
    const Bytes bytes = random_bytes(random, size);
    const std::uint64_t first = random();

    EXPECT_EQ(digest_reference(bytes.data(), size, first), by_the_book(bytes, first)) << size;
  }
}

TEST(Digest, KeepsItsGoldenValue) {
  Bytes bytes(1003);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + 3);

  const base::Digest whole = digest(bytes.data(), bytes.size(), 0);
  const base::Digest later = digest(bytes.data(), bytes.size(), 5);

  EXPECT_EQ(whole, (base::Digest{0x8EFAA4F4A9C82B26u, 0x9668E4ABADC8575Du}));
  EXPECT_EQ(later, (base::Digest{0x66D27A1B8A82A890u, 0xFF12CFA46A9626E1u}));
}

TEST(Digest, OfNothingIsZero) {
  EXPECT_EQ(digest(nullptr, 0, 17), base::Digest{});
}

TEST(Digest, EveryPathEqualsTheReference) {
  std::mt19937_64 random = seeded("EveryPathEqualsTheReference");
  for (int round = 0; round < 400; ++round) {
    const auto sizes = interesting_sizes();
    const std::size_t size = round % 2 == 0 ? sizes[random() % sizes.size()] : random() % 20000;
    const std::size_t from = random() % 65, to = random() % 65;
    const std::uint64_t first = random() % 3 == 0 ? 0 : random();
    const Bytes source = random_bytes(random, size + 65);
    const base::Digest expected = digest_reference(source.data() + from, size, first);

    SCOPED_TRACE("size " + std::to_string(size) + " from " + std::to_string(from) + " to " +
                 std::to_string(to));
    ASSERT_EQ(digest(source.data() + from, size, first), expected);

    using Copy = base::Digest (*)(void*, const void*, std::size_t, std::uint64_t) noexcept;
    for (Copy copy : {Copy{copy_and_digest}, Copy{copy_then_digest_placed}}) {
      Bytes target(size + 130, std::byte{0xEE});
      ASSERT_EQ(copy(target.data() + to, source.data() + from, size, first), expected);
      ASSERT_TRUE(size == 0 ||
                  std::memcmp(target.data() + to, source.data() + from, size) == 0);
      for (std::size_t i = 0; i < target.size(); ++i) {
        if (i >= to && i < to + size) continue;
        ASSERT_EQ(target[i], std::byte{0xEE}) << i;
      }
    }
  }
}

TEST(Digest, EveryKernelEqualsTheReference) {
  std::mt19937_64 random = seeded("EveryKernelEqualsTheReference");
  for (const detail::Kernels* kernels : all_kernels()) {
    for (int round = 0; round < 300; ++round) {
      const std::size_t words = random() % 700;
      const std::size_t to = random() % 65;
      const std::uint64_t first = random();
      const Bytes source = random_bytes(random, 8 * words + 1);
      const base::Digest expected = digest_reference(source.data() + 1, 8 * words, first);
      Bytes copied(8 * words + 65), placed(8 * words + 65);

      ASSERT_EQ(kernels->digest_words(source.data() + 1, words, first), expected);
      ASSERT_EQ(kernels->copy_words(copied.data() + to, source.data() + 1, words, first), expected);
      ASSERT_EQ(kernels->place_words(placed.data() + to, source.data() + 1, words, first),
                expected);
      ASSERT_EQ(std::memcmp(copied.data() + to, source.data() + 1, 8 * words), 0);
      ASSERT_EQ(std::memcmp(placed.data() + to, source.data() + 1, 8 * words), 0);
    }
  }
}

TEST(Digest, PartsAddUpToTheWholeInAnyOrder) {
  std::mt19937_64 random = seeded("PartsAddUpToTheWholeInAnyOrder");
  for (int round = 0; round < 100; ++round) {
    const std::size_t size = 1 + random() % 50000;
    const Bytes bytes = random_bytes(random, size);
    const base::Digest whole = digest(bytes.data(), size, 0);

    std::vector<base::Digest> parts;
    for (std::size_t at = 0; at < size;) {
      const std::size_t part = std::min<std::size_t>(8 * (1 + random() % 900), size - at);
      parts.push_back(digest(bytes.data() + at, part, at / 8));
      at += part;
    }
    std::shuffle(parts.begin(), parts.end(), random);
    base::Digest sum;
    for (const base::Digest& part : parts) sum += part;

    ASSERT_EQ(sum, whole) << "size " << size << ", parts " << parts.size();
  }
}

TEST(Digest, AChangedWordIsTakenOutAndPutIn) {
  std::mt19937_64 random = seeded("AChangedWordIsTakenOutAndPutIn");
  Bytes bytes = random_bytes(random, 8000);
  base::Digest sum = digest(bytes.data(), bytes.size(), 0);

  sum -= digest(bytes.data() + 8 * 123, 8, 123);
  bytes[8 * 123 + 2] ^= std::byte{0x10};
  sum += digest(bytes.data() + 8 * 123, 8, 123);

  EXPECT_EQ(sum, digest(bytes.data(), bytes.size(), 0));
}

TEST(Digest, EveryFlippedBitChangesIt) {
  std::mt19937_64 random = seeded("EveryFlippedBitChangesIt");
  Bytes bytes = random_bytes(random, 203);
  const base::Digest before = digest(bytes.data(), bytes.size(), 0);
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    const base::Digest after = digest(bytes.data(), bytes.size(), 0);
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));

    ASSERT_FALSE(after == before) << "bit " << bit;
  }
}

TEST(Digest, SwappedWordsChangeIt) {
  std::mt19937_64 random = seeded("SwappedWordsChangeIt");
  for (int round = 0; round < 500; ++round) {
    Bytes bytes = random_bytes(random, 8 * 64);
    const base::Digest before = digest(bytes.data(), bytes.size(), 0);
    const std::size_t x = random() % 64, y = (x + 1 + random() % 63) % 64;
    std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(8 * x),
                     bytes.begin() + static_cast<std::ptrdiff_t>(8 * x + 8),
                     bytes.begin() + static_cast<std::ptrdiff_t>(8 * y));

    ASSERT_FALSE(digest(bytes.data(), bytes.size(), 0) == before) << x << " with " << y;
  }
}

TEST(Digest, BytesElsewhereInTheTensorChangeIt) {
  // All words equal: only their position can tell two such parts apart.
  const Bytes bytes(8 * 100, std::byte{0x3F});

  const base::Digest here = digest(bytes.data(), bytes.size(), 0);
  const base::Digest there = digest(bytes.data(), bytes.size(), 1);

  EXPECT_FALSE(here == there);
}

TEST(Digest, ATruncatedTailOfZerosChangesIt) {
  const Bytes bytes(64, std::byte{0});

  EXPECT_FALSE(digest(bytes.data(), 64, 0) == digest(bytes.data(), 56, 0));
}

}  // namespace
}  // namespace weightcast::codec
