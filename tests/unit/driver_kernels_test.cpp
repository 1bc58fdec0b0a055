// What the kernels compute, run on the host thread by thread: equal to the codec bit for bit.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "codec/convert.hpp"
#include "codec/digest.hpp"
#include "driver/copy_pieces.hpp"
#include "driver/digest_tile.hpp"
#include "driver/element_cast.hpp"
#include "driver/gather_batch.hpp"

namespace weightcast::driver {
namespace {

std::mt19937_64 seeded(const char* test) {
  const std::uint64_t seed = std::random_device{}();
  std::printf("%s seed=%llu\n", test, static_cast<unsigned long long>(seed));
  return std::mt19937_64(seed);
}

std::vector<unsigned char> random_bytes(std::mt19937_64& random, std::size_t bytes) {
  std::vector<unsigned char> all(bytes);
  for (auto& byte : all) byte = static_cast<unsigned char>(random());
  return all;
}

TEST(DriverKernelsTest, TilesAddUpToTheDigestOfParts) {
  auto random = seeded("TilesAddUpToTheDigestOfParts");
  constexpr std::uint32_t kThreads = 64;
  const auto bytes = random_bytes(random, 400000);
  for (int round = 0; round < 60; ++round) {
    const std::uint64_t tile_bytes = 16 * (1 + random() % 2000);
    std::vector<DigestEntry> entries;
    std::vector<base::Digest> expected(3);
    std::uint64_t tiles = 0;
    for (int part = 0; part < 7; ++part) {
      // All alignments; small ones often.
      const std::uint64_t size = 1 + random() % (part % 2 == 0 ? 40 : 60000);
      const std::uint64_t begin = random() % (bytes.size() - size);
      const std::uint64_t first = part == 3 ? std::uint64_t{1} << 33 : random() % 1000;
      const std::uint64_t sum = random() % 3;
      entries.push_back({bytes.data() + begin, size, first, tiles, sum});
      tiles += tiles_of(size, tile_bytes);
      expected[sum] += codec::digest(bytes.data() + begin, size, first);
    }
    std::vector<DigestSum> sums(3);
    for (std::uint64_t tile = 0; tile < tiles; ++tile) {
      const std::uint32_t e =
          entry_of(entries.data(), static_cast<std::uint32_t>(entries.size()), tile);
      for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
        add_tile(sums[entries[e].sum], entries[e], tile, tile_bytes, thread, kThreads);
      }
    }
    for (std::size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(sums[i].a, expected[i].a) << "round " << round;
      ASSERT_EQ(sums[i].b, expected[i].b) << "round " << round;
    }
  }
}

TEST(DriverKernelsTest, TilesCopyWhatTheyReadAndNothingElse) {
  auto random = seeded("TilesCopyWhatTheyReadAndNothingElse");
  constexpr std::uint32_t kThreads = 64;
  constexpr unsigned char kGuard = 0xA5;
  const auto bytes = random_bytes(random, 200000);
  for (int round = 0; round < 60; ++round) {
    const std::uint64_t tile_bytes = 16 * (1 + random() % 2000);
    const std::uint64_t size = 1 + random() % (round % 2 == 0 ? 80 : 60000);
    const std::uint64_t begin = random() % (bytes.size() - size);
    // At multiples of 16, and of 8 alone; in words, so that the host may write words there.
    std::vector<std::uint64_t> words(size / 8 + 6, 0);
    std::memset(words.data(), kGuard, words.size() * 8);
    auto* to = reinterpret_cast<unsigned char*>(words.data() + 2);
    if (random() % 2 == 0) to += 8;
    const DigestEntry entry{bytes.data() + begin, size, random() % 1000, 0, 0, to};
    DigestSum sum;
    for (std::uint64_t tile = 0; tile < tiles_of(size, tile_bytes); ++tile) {
      for (std::uint32_t thread = 0; thread < kThreads; ++thread) {
        add_tile(sum, entry, tile, tile_bytes, thread, kThreads);
      }
    }
    const base::Digest expected = codec::digest(bytes.data() + begin, size, entry.first_word);
    ASSERT_EQ(sum.a, expected.a) << "round " << round;
    ASSERT_EQ(sum.b, expected.b) << "round " << round;
    ASSERT_EQ(std::memcmp(to, entry.data, size), 0) << "round " << round;
    const auto* all = reinterpret_cast<const unsigned char*>(words.data());
    for (const unsigned char* at = all; at < all + words.size() * 8; ++at) {
      if (at >= to && at < to + size) continue;
      ASSERT_EQ(*at, kGuard) << "round " << round << " at " << at - to;
    }
  }
}

TEST(DriverKernelsTest, TilesAreAlignedAndOfAFairSize) {
  for (const int shift : {0, 26, 40}) {
    const std::uint64_t tile = tile_bytes_for(std::uint64_t{1} << shift, 792);
    EXPECT_EQ(tile % 16, 0u);
    EXPECT_GE(tile, kLeastTile);
    EXPECT_LE(tile, kMostTile);
  }
  EXPECT_EQ(tile_bytes_for(1000, 792), kLeastTile);
  EXPECT_EQ(tile_bytes_for(std::uint64_t{16} << 30, 792), kMostTile);
}

// Every pattern of the 16-bit types; borders, NaNs and random ones of the others.
template <class Format>
std::vector<typename Format::Bits> patterns(std::mt19937_64& random) {
  std::vector<typename Format::Bits> all;
  if constexpr (sizeof(typename Format::Bits) == 2) {
    for (std::uint32_t i = 0; i < 65536; ++i) all.push_back(static_cast<std::uint16_t>(i));
    return all;
  }
  using Bits = typename Format::Bits;
  constexpr bool is_wide = sizeof(Bits) == 8;
  constexpr int kMantissa = is_wide ? 52 : 23, kExponent = is_wide ? 11 : 8;
  for (std::uint64_t exponent = 0; exponent < (1u << kExponent); ++exponent) {
    for (int i = 0; i < 200; ++i) {
      // Few bits set and many, so that ties and carries come up.
      std::uint64_t mantissa = random();
      if (i % 4 == 1) mantissa &= random() & random();
      if (i % 4 == 2) mantissa |= random() | random();
      if (i % 4 == 3) mantissa = (std::uint64_t{1} << (random() % kMantissa)) + random() % 3 - 1;
      mantissa &= (std::uint64_t{1} << kMantissa) - 1;
      if (i == 0) mantissa = 0;
      const std::uint64_t sign = random() % 2;
      all.push_back(static_cast<Bits>(sign << (kMantissa + kExponent) | exponent << kMantissa |
                                      mantissa));
    }
  }
  return all;
}

template <class To, class From>
void expect_equal_casts(DType to, DType from, std::mt19937_64& random) {
  const auto given = patterns<From>(random);
  std::vector<typename To::Bits> expected(given.size());
  ASSERT_TRUE(codec::cast(expected.data(), to, given.data(), from, given.size()));
  for (std::size_t i = 0; i < given.size(); ++i) {
    const auto got = To::narrow(From::widen(given[i]));
    ASSERT_EQ(got, expected[i]) << dtype_name(from) << " to " << dtype_name(to) << " of bits "
                                << std::hex << given[i];
  }
}

TEST(DriverKernelsTest, CastsEqualTheCodecsForAllPairs) {
  using element::BF16, element::F16, element::F32, element::F64;
  auto random = seeded("CastsEqualTheCodecsForAllPairs");
  expect_equal_casts<F64, F32>(DType::kF64, DType::kF32, random);
  expect_equal_casts<F64, F16>(DType::kF64, DType::kF16, random);
  expect_equal_casts<F64, BF16>(DType::kF64, DType::kBF16, random);
  expect_equal_casts<F32, F64>(DType::kF32, DType::kF64, random);
  expect_equal_casts<F32, F16>(DType::kF32, DType::kF16, random);
  expect_equal_casts<F32, BF16>(DType::kF32, DType::kBF16, random);
  expect_equal_casts<F16, F64>(DType::kF16, DType::kF64, random);
  expect_equal_casts<F16, F32>(DType::kF16, DType::kF32, random);
  expect_equal_casts<F16, BF16>(DType::kF16, DType::kBF16, random);
  expect_equal_casts<BF16, F64>(DType::kBF16, DType::kF64, random);
  expect_equal_casts<BF16, F32>(DType::kBF16, DType::kF32, random);
  expect_equal_casts<BF16, F16>(DType::kBF16, DType::kF16, random);
}

TEST(DriverGatherTest, OffsetsFollowTheStrides) {
  auto random = seeded("OffsetsFollowTheStrides");
  for (int round = 0; round < 50; ++round) {
    TensorView tensor;
    tensor.info.dtype = DType::kI32;
    const std::size_t dimensions = 1 + random() % 5;
    std::int64_t reach = 0, back = 0;
    for (std::size_t d = 0; d < dimensions; ++d) {
      tensor.info.shape.push_back(static_cast<std::int64_t>(1 + random() % 6));
      tensor.strides.push_back(static_cast<std::int64_t>(random() % 15) - 4);
      const std::int64_t far = (tensor.info.shape[d] - 1) * tensor.strides[d];
      (far < 0 ? back : reach) += far;
    }
    std::vector<std::int32_t> memory(static_cast<std::size_t>(reach - back + 1));
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::int32_t>(i);
    tensor.data = memory.data() - back;
    const auto elements = static_cast<std::uint64_t>(tensor.info.elements());
    std::vector<std::int32_t> expected(elements);
    ASSERT_TRUE(codec::gather(expected.data(), DType::kI32, tensor, 0, elements));

    const auto entry = gather_entry({nullptr, DType::kI32, tensor.data, DType::kI32, elements,
                                     tensor.info.shape, tensor.strides});
    ASSERT_TRUE(entry) << entry.status().to_string();
    for (std::uint64_t i = 0; i < elements; ++i) {
      ASSERT_EQ((memory.data() - back)[offset_of(*entry, i)], expected[i]) << "round " << round;
    }
  }
}

TEST(DriverGatherTest, OffsetsBeyondFourGigaElements) {
  const std::int64_t shape[] = {1 << 20, 1 << 13}, strides[] = {1, 1 << 20};
  const auto entry = gather_entry({nullptr, DType::kU8, nullptr, DType::kU8,
                                   std::uint64_t{1} << 33, shape, strides});
  ASSERT_TRUE(entry);
  EXPECT_EQ(offset_of(*entry, (std::uint64_t{1} << 33) - 1), (std::int64_t{1} << 33) - 1);
  EXPECT_EQ(offset_of(*entry, std::uint64_t{1} << 13), 1);
  EXPECT_EQ(offset_of(*entry, (std::uint64_t{5} << 30) + 3), (5 << 17) + (std::int64_t{3} << 20));
}

TEST(DriverGatherTest, MergesWhatLiesTogetherAndRefusesTheRest) {
  const std::int64_t shape[] = {2, 1, 3, 4}, packed[] = {12, 77, 4, 1}, gap[] = {24, 0, 4, 1};
  const auto whole = gather_entry({nullptr, DType::kF32, nullptr, DType::kF32, 24, shape, packed});
  ASSERT_TRUE(whole);
  EXPECT_EQ(whole->dimensions, 0);
  const auto rows = gather_entry({nullptr, DType::kF32, nullptr, DType::kF32, 24, shape, gap});
  ASSERT_TRUE(rows);
  EXPECT_EQ(rows->dimensions, 2);

  const std::vector<std::int64_t> twos(9, 2), odd(9, 3);
  const auto code = [](const GatherItem& item) { return gather_entry(item).status().code(); };
  EXPECT_EQ(code({nullptr, DType::kF32, nullptr, DType::kF32, 512, twos, odd}), Code::kInvalid);
  EXPECT_EQ(code({nullptr, DType::kF32, nullptr, DType::kF32, 25, shape, gap}), Code::kInvalid);
  EXPECT_EQ(code({nullptr, DType::kF32, nullptr, DType::kI32, 1, {}, {}}), Code::kInvalid);
  EXPECT_EQ(code({nullptr, DType::kBool, nullptr, DType::kU8, 1, {}, {}}), Code::kInvalid);
}

TEST(DriverGatherTest, BatchesHoldOnePairOfTypesAndAllElements) {
  std::vector<GatherItem> items;
  for (std::uint64_t i = 0; i < 60; ++i) {
    const DType to = i < 50 ? DType::kBF16 : DType::kF16;
    items.push_back({nullptr, to, nullptr, DType::kF32, i * 1000, {}, {}});
  }
  std::uint64_t elements = 0;
  int launches = 0;
  ASSERT_TRUE(gather_in_batches(items, [&](const GatherBatch& batch, DType to, DType from) {
    ++launches;
    EXPECT_EQ(from, DType::kF32);
    std::uint64_t tiles = 0;
    for (std::int32_t i = 0; i < batch.count; ++i) {
      EXPECT_EQ(batch.entries[i].first_tile, tiles);
      EXPECT_EQ(to == DType::kF16, batch.entries[i].elements >= 50000);
      tiles += (batch.entries[i].elements + kGatherTile - 1) / kGatherTile;
      elements += batch.entries[i].elements;
    }
    EXPECT_EQ(batch.tiles, tiles);
    return Status::ok();
  }));
  EXPECT_EQ(elements, 1000u * 59 * 60 / 2);
  EXPECT_EQ(launches, 4);
  EXPECT_EQ(gather_in_batches(items, [](const GatherBatch&, DType, DType) {
              return Status(Code::kInternal, "wanted");
            }).code(), Code::kInternal);
}

TEST(DriverCopyTest, CopiesAreCutAtTheBordersOfRegisteredPieces) {
  auto* base = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40);
  const Borders borders = {(std::uintptr_t{1} << 40) + 100, (std::uintptr_t{1} << 40) + 200,
                           (std::uintptr_t{1} << 40) + 1000};
  std::vector<CopyItem> pieces;
  ASSERT_TRUE(in_pieces({base + 50, base + 900, 160}, borders, [&](const CopyItem& piece) {
    pieces.push_back(piece);
    return Status::ok();
  }));
  std::vector<std::uint64_t> sizes;
  std::uint64_t at = 0;
  for (const CopyItem& piece : pieces) {
    EXPECT_EQ(piece.to, base + 50 + at);
    EXPECT_EQ(piece.from, base + 900 + at);
    sizes.push_back(piece.bytes);
    at += piece.bytes;
  }
  EXPECT_EQ(sizes, (std::vector<std::uint64_t>{50, 50, 50, 10}));
}

}  // namespace
}  // namespace weightcast::driver
