// The kernels on the device: equal to the codec on the host, bit for bit.
#include <algorithm>

#include "codec/convert.hpp"
#include "codec/digest.hpp"
#include "gpu/device_fixture.hpp"

namespace weightcast::driver {
namespace {

class CudaKernelsTest : public DeviceTest {};

TEST_F(CudaKernelsTest, DigestsEqualTheHostsForAllSizesAndAlignments) {
  auto random = seeded("DigestsEqualTheHostsForAllSizesAndAlignments");
  constexpr std::size_t kBytes = 48 << 20, kParts = 400, kSums = 50;
  const auto bytes = random_bytes(random, kBytes);
  std::byte* device = on_device(kBytes);
  ASSERT_TRUE(copy(device, bytes.data(), kBytes));
  const auto job = cuda_->make_digests(kDevice, kParts, kSums).value_or_throw();
  for (int round = 0; round < 20; ++round) {
    std::vector<DigestPart> parts;
    std::vector<base::Digest> expected(kSums);
    for (std::size_t i = 0; i < kParts; ++i) {
      // A few large ones among many small ones; offsets of all alignments.
      const std::uint64_t most = i % 40 == 0 ? 8 << 20 : i % 3 == 0 ? 20 : 100000;
      const std::uint64_t size = random() % most;
      std::uint64_t begin = random() % (kBytes - size);
      if (i % 2 == 0) begin = begin / 16 * 16;
      const std::uint64_t first = random() >> (random() % 64);
      const auto sum = static_cast<std::uint32_t>(random() % kSums);
      parts.push_back({device + begin, size, first, sum});
      expected[sum] += codec::digest(bytes.data() + begin, size, first);
    }
    ASSERT_TRUE(job->start(parts, stream_));
    ASSERT_TRUE(finish());
    ASSERT_EQ(job->sums().size(), kSums);
    for (std::size_t i = 0; i < kSums; ++i) {
      ASSERT_EQ(job->sums()[i], expected[i]) << "round " << round << " sum " << i;
    }
  }
}

TEST_F(CudaKernelsTest, DigestsCopyWhatTheyReadAndNothingElse) {
  auto random = seeded("DigestsCopyWhatTheyReadAndNothingElse");
  constexpr std::size_t kBytes = 48 << 20, kParts = 200;
  constexpr std::byte kGuard{0xA5};
  const auto bytes = random_bytes(random, kBytes);
  std::byte* from = on_device(kBytes);
  std::byte* to = on_device(kBytes);
  ASSERT_TRUE(copy(from, bytes.data(), kBytes));
  const auto job = cuda_->make_digests(kDevice, kParts, kParts).value_or_throw();
  for (int round = 0; round < 10; ++round) {
    std::vector<std::byte> expected(kBytes, kGuard);
    ASSERT_TRUE(copy(to, expected.data(), kBytes));
    std::vector<DigestPart> parts;
    std::vector<base::Digest> digests;
    std::size_t at = 0;
    for (std::uint32_t i = 0; i < kParts; ++i) {
      const std::uint64_t most = i % 40 == 0 ? 4 << 20 : i % 3 == 0 ? 20 : 100000;
      const std::uint64_t size = std::min<std::uint64_t>(random() % most, kBytes - at - 64);
      std::uint64_t begin = random() % (kBytes - size);
      if (i % 2 == 0) begin = begin / 16 * 16;
      const std::uint64_t first = random() % 1000;
      const bool copies = i % 5 != 0;
      parts.push_back({from + begin, size, first, i, copies ? to + at : nullptr});
      digests.push_back(codec::digest(bytes.data() + begin, size, first));
      if (copies) std::memcpy(expected.data() + at, bytes.data() + begin, size);
      at = (at + size + 7) / 8 * 8 + 8 * (random() % 3);
    }
    ASSERT_TRUE(job->start(parts, stream_));
    ASSERT_TRUE(finish());
    for (std::size_t i = 0; i < kParts; ++i) ASSERT_EQ(job->sums()[i], digests[i]) << i;
    std::vector<std::byte> got(kBytes);
    ASSERT_TRUE(copy(got.data(), to, kBytes));
    ASSERT_EQ(got, expected) << "round " << round;
  }
  const DigestPart odd{from, 8, 0, 0, to + 4};
  EXPECT_EQ(job->start({&odd, 1}, stream_).code(), Code::kInvalid);
}

TEST_F(CudaKernelsTest, DigestsBeyondFourGigabytes) {
  auto random = seeded("DigestsBeyondFourGigabytes");
  constexpr std::uint64_t kChunk = 64 << 20, kBytes = (std::uint64_t{4} << 30) + kChunk;
  if (cuda_->memory(kDevice)->free < kBytes + (std::uint64_t{1} << 30)) {
    GTEST_SKIP() << "expected 5.1 GiB of free device memory, got "
                 << cuda_->memory(kDevice)->free;
  }
  const auto chunk = random_bytes(random, kChunk);
  std::byte* pinned = on_host(kChunk);
  std::memcpy(pinned, chunk.data(), kChunk);
  std::byte* device = on_device(kBytes);
  base::Digest expected;
  for (std::uint64_t at = 0; at < kBytes; at += kChunk) {
    ASSERT_TRUE(copy(device + at, pinned, kChunk));
    expected += codec::digest(chunk.data(), kChunk, at / 8);
  }
  const auto job = cuda_->make_digests(kDevice, 1, 1).value_or_throw();
  const DigestPart part{device, kBytes, 0, 0};
  ASSERT_TRUE(job->start({&part, 1}, stream_));
  ASSERT_TRUE(finish());
  EXPECT_EQ(job->sums()[0], expected);
}

TEST_F(CudaKernelsTest, DigestsOfNothingAndOfTooMuch) {
  const auto job = cuda_->make_digests(kDevice, 2, 1).value_or_throw();
  ASSERT_TRUE(job->start({}, stream_));
  ASSERT_TRUE(finish());
  EXPECT_EQ(job->sums()[0], base::Digest{});
  EXPECT_EQ(job->start(std::vector<DigestPart>(3), stream_).code(), Code::kInvalid);
  const DigestPart no_sum{on_device(8), 8, 0, 1};
  EXPECT_EQ(job->start({&no_sum, 1}, stream_).code(), Code::kInvalid);
}

TEST_F(CudaKernelsTest, DigestsReadPinnedHostMemory) {
  auto random = seeded("DigestsReadPinnedHostMemory");
  const auto bytes = random_bytes(random, 1000003);
  std::byte* pinned = on_host(bytes.size());
  std::memcpy(pinned, bytes.data(), bytes.size());
  const auto job = cuda_->make_digests(kDevice, 1, 1).value_or_throw();
  const DigestPart part{pinned, bytes.size(), 7, 0};
  ASSERT_TRUE(job->start({&part, 1}, stream_));
  ASSERT_TRUE(finish());
  EXPECT_EQ(job->sums()[0], codec::digest(bytes.data(), bytes.size(), 7));
}

// All patterns of 16 bits; of the wider types, random ones and the borders of every exponent.
std::vector<std::byte> patterns(DType type, std::mt19937_64& random) {
  const std::size_t size = dtype_size(type);
  std::vector<std::byte> all;
  const auto add = [&](std::uint64_t bits) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&bits);
    all.insert(all.end(), bytes, bytes + size);
  };
  if (size == 2) {
    for (std::uint64_t bits = 0; bits < 65536; ++bits) add(bits);
    return all;
  }
  const int mantissa_bits = size == 8 ? 52 : 23;
  const std::uint64_t exponents = size == 8 ? 2048 : 256;
  for (std::uint64_t e = 0; e < 2 * exponents; ++e) {
    for (int i = 0; i < 100; ++i) {
      std::uint64_t mantissa = random();
      if (i % 3 == 1) mantissa &= random() & random();
      if (i % 3 == 2) mantissa = (std::uint64_t{1} << (random() % 52)) + random() % 3 - 1;
      if (i == 0) mantissa = 0;
      add(e << mantissa_bits | (mantissa & ((std::uint64_t{1} << mantissa_bits) - 1)));
    }
  }
  return all;
}

class CudaCastTest : public DeviceTest,
                     public ::testing::WithParamInterface<std::tuple<DType, DType>> {};

TEST_P(CudaCastTest, EqualsTheHosts) {
  auto random = seeded("EqualsTheHosts");
  const auto [from, to] = GetParam();
  const auto given = patterns(from, random);
  const std::uint64_t elements = given.size() / dtype_size(from);
  std::vector<std::byte> expected(elements * dtype_size(to)), got(expected.size());
  ASSERT_TRUE(codec::cast(expected.data(), to, given.data(), from, elements));
  std::byte* source = on_device(given.size());
  std::byte* target = on_device(expected.size());
  ASSERT_TRUE(copy(source, given.data(), given.size()));
  const GatherItem item{target, to, source, from, elements, {}, {}};
  ASSERT_TRUE(cuda_->gather(kDevice, {&item, 1}, stream_));
  ASSERT_TRUE(copy(got.data(), target, got.size()));
  ASSERT_TRUE(finish());
  for (std::uint64_t i = 0; i < elements; ++i) {
    const std::size_t at = i * dtype_size(to);
    ASSERT_EQ(std::memcmp(got.data() + at, expected.data() + at, dtype_size(to)), 0)
        << dtype_name(from) << " to " << dtype_name(to) << ", element " << i;
  }
}

const auto kFloats = ::testing::Values(DType::kF64, DType::kF32, DType::kF16, DType::kBF16);
INSTANTIATE_TEST_SUITE_P(AllPairs, CudaCastTest, ::testing::Combine(kFloats, kFloats),
                         [](const auto& it) {
                           return std::string(dtype_name(std::get<0>(it.param))) + "_to_" +
                                  std::string(dtype_name(std::get<1>(it.param)));
                         });

TEST_F(CudaKernelsTest, GathersEqualTheHostsForAnyStrides) {
  auto random = seeded("GathersEqualTheHostsForAnyStrides");
  const std::vector<DType> types = {DType::kBool, DType::kI16, DType::kI32, DType::kI64,
                                    DType::kF32,  DType::kBF16};
  constexpr std::size_t kBytes = 4 << 20;
  const auto bytes = random_bytes(random, kBytes);
  std::byte* source = on_device(kBytes);
  std::byte* target = on_device(64 << 20);
  ASSERT_TRUE(copy(source, bytes.data(), kBytes));

  struct Case {
    TensorView view;
    std::uint64_t begin = 0;
    std::vector<std::byte> expected;
    DType to = DType::kF32;
  };
  std::vector<Case> cases(60);
  std::vector<GatherItem> items;
  std::uint64_t end = 0;
  for (Case& it : cases) {
    auto& info = it.view.info;
    info.dtype = types[random() % types.size()];
    it.to = info.dtype == DType::kF32 && random() % 2 == 0 ? DType::kBF16 : info.dtype;
    std::int64_t reach = 0, back = 0;
    for (std::size_t d = 0, n = 1 + random() % 4; d < n; ++d) {
      info.shape.push_back(static_cast<std::int64_t>(random() % 20));
      it.view.strides.push_back(static_cast<std::int64_t>(random() % 2000) - 500);
      const std::int64_t far = (info.shape[d] - 1) * it.view.strides[d];
      if (info.shape[d] != 0) (far < 0 ? back : reach) += far;
    }
    const auto size = static_cast<std::int64_t>(dtype_size(info.dtype));
    ASSERT_LT((reach - back + 1) * size, static_cast<std::int64_t>(kBytes));
    it.view.data = bytes.data() - back * size;
    const auto elements = static_cast<std::uint64_t>(info.elements());
    it.expected.resize(elements * dtype_size(it.to));
    ASSERT_TRUE(codec::gather(it.expected.data(), it.to, it.view, 0, elements));
    it.begin = end;
    end += (it.expected.size() + 255) / 256 * 256;
    items.push_back({target + it.begin, it.to, source - back * size, info.dtype, elements,
                     info.shape, it.view.strides});
  }
  ASSERT_LT(end, std::uint64_t{64} << 20);
  ASSERT_TRUE(cuda_->gather(kDevice, items, stream_));
  std::vector<std::byte> got(end);
  ASSERT_TRUE(copy(got.data(), target, end));
  ASSERT_TRUE(finish());
  for (std::size_t i = 0; i < cases.size(); ++i) {
    EXPECT_TRUE(std::equal(cases[i].expected.begin(), cases[i].expected.end(),
                           got.begin() + static_cast<std::ptrdiff_t>(cases[i].begin)))
        << "case " << i;
  }
  const GatherItem integers{target, DType::kF32, source, DType::kI32, 1, {}, {}};
  EXPECT_EQ(cuda_->gather(kDevice, {&integers, 1}, stream_).code(), Code::kInvalid);
}

}  // namespace
}  // namespace weightcast::driver
