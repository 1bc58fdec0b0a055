#include "codec/convert.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "codec/convert_kernels.hpp"
#include "support/seeded.hpp"

namespace weightcast::codec {
namespace {

using weightcast::test::seeded;

// A 16-bit format by its definition alone: every finite value as a double, and rounding as a
// search for the nearest. Shares no code or trick with what it judges.
class Format {
 public:
  Format(int exponent_bits, int mantissa_bits, std::uint16_t (*nan)(std::uint32_t bits))
      : mantissa_bits_(mantissa_bits),
        bias_((1 << (exponent_bits - 1)) - 1),
        infinity_(static_cast<std::uint16_t>(((1 << exponent_bits) - 1) << mantissa_bits)),
        nan_(nan) {
    for (std::uint32_t bits = 0; bits < infinity_; ++bits) values_.push_back(value(bits));
    // Where the next value would stand if the exponent had no end: rounding to it is overflow.
    values_.push_back(value(infinity_));
  }

  const std::vector<double>& values() const { return values_; }
  std::uint16_t infinity() const { return infinity_; }

  std::uint16_t round(float given) const {
    const std::uint16_t sign = std::signbit(given) ? 0x8000 : 0;
    if (std::isnan(given)) return nan_(std::bit_cast<std::uint32_t>(given));
    const double magnitude = std::fabs(static_cast<double>(given));
    if (magnitude >= values_.back()) return sign | infinity_;
    const auto above = std::upper_bound(values_.begin(), values_.end(), magnitude);
    const auto high = static_cast<std::uint16_t>(above - values_.begin());
    const auto low = static_cast<std::uint16_t>(high - 1);
    const double to_low = magnitude - values_[low], to_high = values_[high] - magnitude;
    if (to_low != to_high) return sign | (to_low < to_high ? low : high);
    return sign | (low % 2 == 0 ? low : high);
  }

 private:
  double value(std::uint32_t bits) const {
    const int exponent = static_cast<int>(bits >> mantissa_bits_);
    const double mantissa = static_cast<double>(bits & ((1u << mantissa_bits_) - 1));
    const double scale = std::ldexp(1.0, -mantissa_bits_);
    return exponent == 0 ? std::ldexp(mantissa * scale, 1 - bias_)
                         : std::ldexp(1.0 + mantissa * scale, exponent - bias_);
  }

  int mantissa_bits_;
  int bias_;
  std::uint16_t infinity_;
  std::uint16_t (*nan_)(std::uint32_t bits);
  std::vector<double> values_;
};

const Format& bf16() {
  static const Format format(8, 7, [](std::uint32_t) -> std::uint16_t { return 0x7FC0; });
  return format;
}
const Format& f16() {
  // Sign, then all ones, then the payload's upper ten bits with the quiet bit set.
  static const Format format(5, 10, [](std::uint32_t bits) {
    const std::uint32_t sign = bits / 0x80000000u, payload = bits % 0x800000u / 0x2000u;
    return static_cast<std::uint16_t>(sign * 0x8000u + 0x7C00u + (payload | 0x200u));
  });
  return format;
}

// Random bit patterns, and for each value of the format the halfway points to its neighbours with
// the floats just below and above them: where rounding can go wrong.
std::vector<float> hard_floats(const Format& format, std::mt19937_64& random) {
  std::vector<float> floats;
  const auto both = [&](float value) {
    floats.push_back(value);
    floats.push_back(-value);
  };
  for (std::size_t i = 0; i + 1 < format.values().size(); ++i) {
    const double half = (format.values()[i] + format.values()[i + 1]) / 2;
    const auto middle = static_cast<float>(half);
    both(static_cast<float>(format.values()[i]));
    both(middle);
    both(std::nextafterf(middle, 0.0f));
    both(std::nextafterf(middle, std::numeric_limits<float>::infinity()));
  }
  for (std::uint32_t bits :
       {0x00000000u, 0x00000001u, 0x007FFFFFu, 0x00800000u, 0x7F7FFFFFu, 0x7F800000u, 0x7F800001u,
        0x7FBFFFFFu, 0x7FC00000u, 0x7FC00001u, 0x7FFFFFFFu, 0x477FE000u, 0x477FEFFFu, 0x477FF000u,
        0x33000000u, 0x33000001u, 0x32FFFFFFu, 0x387FFFFFu, 0x38800000u}) {
    floats.push_back(std::bit_cast<float>(bits));
    floats.push_back(std::bit_cast<float>(bits | 0x80000000u));
  }
  for (int i = 0; i < 1'000'000; ++i) {
    floats.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  }
  return floats;
}

void expect_rounded(DType to, const Format& format, const char* test) {
  std::mt19937_64 random = seeded(test);
  const std::vector<float> floats = hard_floats(format, random);
  std::vector<std::uint16_t> rounded(floats.size());

  ASSERT_TRUE(cast(rounded.data(), to, floats.data(), DType::kF32, floats.size()).is_ok());

  for (std::size_t i = 0; i < floats.size(); ++i) {
    ASSERT_EQ(rounded[i], format.round(floats[i]))
        << std::hex << "f32 0x" << std::bit_cast<std::uint32_t>(floats[i]);
  }
}

TEST(Cast, F32ToBf16RoundsToNearestEven) {
  expect_rounded(DType::kBF16, bf16(), "F32ToBf16RoundsToNearestEven");
}

TEST(Cast, F32ToF16RoundsToNearestEven) {
  expect_rounded(DType::kF16, f16(), "F32ToF16RoundsToNearestEven");
}

TEST(Cast, PortableFormsRoundToNearestEven) {
  std::mt19937_64 random = seeded("PortableFormsRoundToNearestEven");
  for (float value : hard_floats(bf16(), random)) {
    ASSERT_EQ(detail::bf16_from_f32(value), bf16().round(value)) << value;
  }
  for (float value : hard_floats(f16(), random)) {
    ASSERT_EQ(detail::f16_from_f32(value), f16().round(value)) << value;
  }
}

TEST(Cast, WideningIsExactForEveryValue) {
  for (const auto& [from, format] : {std::pair<DType, const Format*>{DType::kBF16, &bf16()},
                                     std::pair<DType, const Format*>{DType::kF16, &f16()}}) {
    std::vector<std::uint16_t> all(65536);
    std::iota(all.begin(), all.end(), std::uint16_t{0});
    std::vector<float> wide(all.size());
    std::vector<double> wider(all.size());
    std::vector<std::uint16_t> back(all.size());

    ASSERT_TRUE(cast(wide.data(), DType::kF32, all.data(), from, all.size()).is_ok());
    ASSERT_TRUE(cast(wider.data(), DType::kF64, all.data(), from, all.size()).is_ok());
    ASSERT_TRUE(cast(back.data(), from, wide.data(), DType::kF32, all.size()).is_ok());

    for (std::uint32_t bits = 0; bits < all.size(); ++bits) {
      const std::uint32_t magnitude = bits & 0x7FFFu;
      if (magnitude > format->infinity()) {
        ASSERT_TRUE(std::isnan(wide[bits])) << bits;
        ASSERT_TRUE(std::isnan(wider[bits])) << bits;
        continue;
      }
      const double value = magnitude == format->infinity()
                               ? std::numeric_limits<double>::infinity()
                               : format->values()[magnitude];
      ASSERT_EQ(static_cast<double>(wide[bits]), bits > 0x7FFFu ? -value : value) << bits;
      ASSERT_EQ(wider[bits], bits > 0x7FFFu ? -value : value) << bits;
      ASSERT_EQ(std::signbit(wide[bits]), bits > 0x7FFFu) << bits;
      ASSERT_EQ(back[bits], bits);
    }
  }
}

TEST(Cast, F64GoesThroughF32AsTorchDoes) {
  // In one step this would round up to 1 + 2^-7: it lies just above the halfway point, but f32
  // puts it exactly there, and the tie goes to the even 1.
  const double just_above_half = 1.0 + 0x1p-8 + 0x1p-40;
  const double values[] = {just_above_half, 1e300, -1e300, 0x1p-200,
                           std::numeric_limits<double>::quiet_NaN(), 3.0};
  std::uint16_t narrow[6];
  float single[6];

  ASSERT_TRUE(cast(narrow, DType::kBF16, values, DType::kF64, 6).is_ok());
  ASSERT_TRUE(cast(single, DType::kF32, values, DType::kF64, 6).is_ok());

  const std::uint16_t expected[] = {0x3F80, 0x7F80, 0xFF80, 0x0000, 0x7FC0, 0x4040};
  for (int i = 0; i < 6; ++i) EXPECT_EQ(narrow[i], expected[i]) << i;
  EXPECT_EQ(single[0], static_cast<float>(just_above_half));
  EXPECT_TRUE(std::isinf(single[1]));
  EXPECT_TRUE(std::isnan(single[4]));
}

TEST(Cast, EveryCountAndAlignmentEqualsOneByOne) {
  std::mt19937_64 random = seeded("EveryCountAndAlignmentEqualsOneByOne");
  for (std::size_t count = 0; count < 70; ++count) {
    std::vector<std::byte> from(4 * count + 3), to(2 * count + 3);
    for (std::byte& b : from) b = static_cast<std::byte>(random());
    for (DType dtype : {DType::kBF16, DType::kF16}) {
      ASSERT_TRUE(cast(to.data() + 1, dtype, from.data() + 3, DType::kF32, count).is_ok());
      for (std::size_t i = 0; i < count; ++i) {
        float value;
        std::uint16_t bits;
        std::memcpy(&value, from.data() + 3 + 4 * i, 4);
        std::memcpy(&bits, to.data() + 1 + 2 * i, 2);
        ASSERT_EQ(bits, dtype == DType::kBF16 ? detail::bf16_from_f32(value)
                                              : detail::f16_from_f32(value));
      }
    }
  }
}

TEST(Cast, EqualDtypesKeepEveryBit) {
  const std::uint32_t bits[] = {0x7F800001u, 0xFFFFFFFFu, 0x80000000u, 1u};
  std::uint32_t copied[4];

  ASSERT_TRUE(cast(copied, DType::kF32, bits, DType::kF32, 4).is_ok());

  EXPECT_EQ(std::memcmp(bits, copied, sizeof bits), 0);
}

TEST(Cast, IntegersAreRefusedWithTheReason) {
  std::int64_t from = 1;
  float to = 0;

  const Status refused = cast(&to, DType::kF32, &from, DType::kI64, 1);
  const Status unknown = cast(&to, static_cast<DType>(99), &from, static_cast<DType>(99), 1);

  EXPECT_EQ(refused.code(), Code::kInvalid);
  EXPECT_NE(refused.message().find("from i64 to f32"), std::string::npos) << refused.message();
  EXPECT_EQ(unknown.code(), Code::kInvalid);
}

// A view with random shape and strides over numbered storage.
template <class T>
struct RandomView {
  std::vector<T> storage;
  TensorView view;

  RandomView(DType dtype, std::mt19937_64& random) {
    const std::size_t dims = random() % 5;
    std::vector<std::size_t> order(dims);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::shuffle(order.begin(), order.end(), random);
    view.info.name = "t";
    view.info.dtype = dtype;
    for (std::size_t d = 0; d < dims; ++d) {
      view.info.shape.push_back(static_cast<std::int64_t>(random() % 10 == 0 ? 1 : 1 + random() % 37));
    }
    view.strides.assign(dims, 0);
    std::int64_t step = 1;
    for (std::size_t d : order) {
      if (random() % 8 == 0) continue;  // an expanded dimension
      view.strides[d] = step;
      step *= view.info.shape[d] + (random() % 4 == 0 ? 2 : 0);
    }
    std::int64_t first = 0, last = 0;
    for (std::size_t d = 0; d < dims; ++d) {
      if (random() % 6 == 0) view.strides[d] = -view.strides[d];
      const std::int64_t reach = view.strides[d] * (view.info.shape[d] - 1);
      (reach < 0 ? first : last) += reach;
    }
    storage.resize(static_cast<std::size_t>(last - first + 1));
    for (std::size_t i = 0; i < storage.size(); ++i) storage[i] = static_cast<T>(i * 2654435761u);
    view.data = storage.data() - first;
  }

  T at(std::uint64_t element) const {
    std::int64_t offset = 0;
    for (std::size_t d = view.info.shape.size(); d-- > 0;) {
      const auto size = static_cast<std::uint64_t>(view.info.shape[d]);
      offset += static_cast<std::int64_t>(element % size) * view.strides[d];
      element /= size;
    }
    return static_cast<const T*>(view.data)[offset];
  }
};

template <class T>
void expect_gathers(DType dtype, const char* test) {
  std::mt19937_64 random = seeded(test);
  for (int round = 0; round < 150; ++round) {
    const RandomView<T> tensor(dtype, random);
    const auto total = static_cast<std::uint64_t>(tensor.view.info.elements());
    const std::uint64_t first = random() % (total + 1);
    const std::uint64_t count = random() % 2 == 0 ? total - first : random() % (total - first + 1);
    std::vector<T> got(count + 1, T{77});

    const Status status = gather(got.data(), dtype, tensor.view, first, count);

    ASSERT_TRUE(status.is_ok()) << status.to_string();
    for (std::uint64_t i = 0; i < count; ++i) ASSERT_EQ(got[i], tensor.at(first + i)) << i;
    ASSERT_EQ(got[count], T{77});
  }
}

TEST(Gather, AnyStridesOneByte) { expect_gathers<std::uint8_t>(DType::kU8, "AnyStridesOneByte"); }
TEST(Gather, AnyStridesTwoBytes) { expect_gathers<std::int16_t>(DType::kI16, "AnyStridesTwoBytes"); }
TEST(Gather, AnyStridesFourBytes) { expect_gathers<std::int32_t>(DType::kI32, "AnyStridesFourBytes"); }
TEST(Gather, AnyStridesEightBytes) {
  expect_gathers<std::int64_t>(DType::kI64, "AnyStridesEightBytes");
}

TEST(Gather, CastsStridedElements) {
  std::vector<float> storage(300 * 200);
  for (std::size_t i = 0; i < storage.size(); ++i) storage[i] = static_cast<float>(i) * 0.37f - 9.0f;
  TensorView transposed;
  transposed.info.name = "t";
  transposed.info.dtype = DType::kF32;
  transposed.info.shape = {200, 300};
  transposed.strides = {1, 200};
  transposed.data = storage.data();
  std::vector<std::uint16_t> got(200 * 300 - 17);

  ASSERT_TRUE(gather(got.data(), DType::kBF16, transposed, 17, got.size()).is_ok());

  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::size_t row = (i + 17) / 300, column = (i + 17) % 300;
    ASSERT_EQ(got[i], detail::bf16_from_f32(storage[column * 200 + row])) << i;
  }
}

TEST(Gather, EmptyTensorNeedsNoAddress) {
  TensorView empty;
  empty.info.shape = {3, 0, 2};
  empty.strides = {0, 2, 1};

  EXPECT_TRUE(gather(nullptr, DType::kF32, empty, 0, 0).is_ok());
}

TEST(Gather, RefusesElementsOutsideTheTensor) {
  float value = 1, got[4];
  TensorView scalar;
  scalar.info.name = "scale";
  scalar.data = &value;

  const Status status = gather(got, DType::kF32, scalar, 0, 2);
  const Status wrapping = gather(got, DType::kF32, scalar, 1, ~std::uint64_t{0});

  EXPECT_EQ(status.code(), Code::kInvalid);
  EXPECT_NE(status.message().find("scale"), std::string::npos);
  EXPECT_EQ(wrapping.code(), Code::kInvalid);
}

TEST(Gather, RefusesStridesThatDoNotFitTheShape) {
  float value = 1, got = 0;
  TensorView view;
  view.info.name = "w";
  view.info.shape = {1, 1};
  view.strides = {1};
  view.data = &value;

  EXPECT_EQ(gather(&got, DType::kF32, view, 0, 1).code(), Code::kInvalid);
}

TEST(IsContiguous, LooksAtWhatMatters) {
  const auto view = [](std::vector<std::int64_t> shape, std::vector<std::int64_t> strides) {
    TensorView v;
    v.info.shape = std::move(shape);
    v.strides = std::move(strides);
    return v;
  };

  EXPECT_TRUE(is_contiguous(view({}, {})));
  EXPECT_TRUE(is_contiguous(view({2, 3}, {})));
  EXPECT_TRUE(is_contiguous(view({2, 3}, {3, 1})));
  EXPECT_TRUE(is_contiguous(view({2, 1, 3}, {3, 999, 1})));
  EXPECT_TRUE(is_contiguous(view({0, 5}, {1, 7})));
  EXPECT_FALSE(is_contiguous(view({2, 3}, {1, 2})));
  EXPECT_FALSE(is_contiguous(view({2, 3}, {4, 1})));
  EXPECT_FALSE(is_contiguous(view({2, 3}, {0, 1})));
  EXPECT_FALSE(is_contiguous(view({3}, {-1})));
}

}  // namespace
}  // namespace weightcast::codec
