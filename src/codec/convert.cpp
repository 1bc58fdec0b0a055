#include "codec/convert.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "codec/convert_kernels.hpp"

namespace weightcast::codec {
namespace {

template <class T>
T load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store(std::byte* to, T value) noexcept {
  std::memcpy(to, &value, sizeof value);
}

// Elements as they lie in memory. The 16-bit types differ only in how they become f32.
struct F64 {
  using Bits = double;
  static float widen(Bits value) noexcept { return static_cast<float>(value); }
  static Bits narrow(float value) noexcept { return static_cast<double>(value); }
};
struct F32 {
  using Bits = float;
  static float widen(Bits value) noexcept { return value; }
  static Bits narrow(float value) noexcept { return value; }
};
struct F16 {
  using Bits = std::uint16_t;
  static float widen(Bits value) noexcept { return detail::f32_from_f16(value); }
  static Bits narrow(float value) noexcept { return detail::f16_from_f32(value); }
};
struct BF16 {
  using Bits = std::uint16_t;
  static float widen(Bits value) noexcept { return detail::f32_from_bf16(value); }
  static Bits narrow(float value) noexcept { return detail::bf16_from_f32(value); }
};

template <class To, class From>
void cast_each(std::byte* to, const std::byte* from, std::uint64_t count) noexcept {
  using ToBits = typename To::Bits;
  using FromBits = typename From::Bits;
  for (std::uint64_t i = 0; i < count; ++i) {
    store<ToBits>(to + i * sizeof(ToBits),
                  To::narrow(From::widen(load<FromBits>(from + i * sizeof(FromBits)))));
  }
}

using CastFunction = void (*)(std::byte*, const std::byte*, std::uint64_t) noexcept;

template <class To>
CastFunction cast_from(DType from) noexcept {
  switch (from) {
    case DType::kF64: return cast_each<To, F64>;
    case DType::kF32: return cast_each<To, F32>;
    case DType::kF16: return cast_each<To, F16>;
    case DType::kBF16: return cast_each<To, BF16>;
    default: return nullptr;
  }
}

CastFunction portable_cast(DType to, DType from) noexcept {
  switch (to) {
    case DType::kF64: return cast_from<F64>(from);
    case DType::kF32: return cast_from<F32>(from);
    case DType::kF16: return cast_from<F16>(from);
    case DType::kBF16: return cast_from<BF16>(from);
    default: return nullptr;
  }
}

// The vector form of a cast, which takes multiples of 8 elements, or null.
CastFunction vector_cast([[maybe_unused]] DType to, [[maybe_unused]] DType from) noexcept {
#if WEIGHTCAST_HAVE_AVX2_KERNELS
  if (detail::have_avx2_casts()) {
    if (to == DType::kBF16 && from == DType::kF32) return detail::bf16_from_f32_avx2;
    if (to == DType::kF16 && from == DType::kF32) return detail::f16_from_f32_avx2;
    if (to == DType::kF32 && from == DType::kF16) return detail::f32_from_f16_avx2;
  }
#endif
  return nullptr;
}

// A tensor's dimensions with those of size 1 dropped and those that lie together merged; strides
// in bytes.
struct Walk {
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
};

Walk simplify(const TensorView& tensor) {
  const auto element = static_cast<std::int64_t>(dtype_size(tensor.info.dtype));
  Walk walk;
  for (std::size_t d = 0; d < tensor.info.shape.size(); ++d) {
    const std::int64_t size = tensor.info.shape[d];
    const std::int64_t stride = tensor.strides[d] * element;
    if (size == 1) continue;
    if (!walk.sizes.empty() && walk.strides.back() == stride * size) {
      walk.sizes.back() *= size;
      walk.strides.back() = stride;
    } else {
      walk.sizes.push_back(size);
      walk.strides.push_back(stride);
    }
  }
  if (walk.sizes.empty()) {
    walk.sizes.push_back(1);
    walk.strides.push_back(element);
  }
  return walk;
}

// Address of an element by its number in row-major order, for counting up from there.
class Cursor {
 public:
  Cursor(const Walk& walk, const std::byte* data, std::uint64_t first, std::size_t dims)
      : walk_(walk), at_(data), index_(dims, 0) {
    for (std::size_t d = dims; d-- > 0;) {
      const auto size = static_cast<std::uint64_t>(walk.sizes[d]);
      index_[d] = static_cast<std::int64_t>(first % size);
      first /= size;
      at_ += index_[d] * walk.strides[d];
    }
  }
  const std::byte* at() const noexcept { return at_; }
  void next() noexcept {
    for (std::size_t d = index_.size(); d-- > 0;) {
      at_ += walk_.strides[d];
      if (++index_[d] < walk_.sizes[d]) return;
      at_ -= walk_.strides[d] * walk_.sizes[d];
      index_[d] = 0;
    }
  }

 private:
  const Walk& walk_;
  const std::byte* at_;
  std::vector<std::int64_t> index_;
};

template <class T>
void copy_run(std::byte* to, const std::byte* from, std::int64_t stride,
              std::uint64_t count) noexcept {
  if (stride == static_cast<std::int64_t>(sizeof(T))) {
    std::memcpy(to, from, count * sizeof(T));
    return;
  }
  for (std::uint64_t i = 0; i < count; ++i) {
    store<T>(to + i * sizeof(T), load<T>(from));
    from += stride;
  }
}

// Rows whose neighbours lie closer together than a row's own elements, as in a transposed matrix:
// some rows at once, down each column, so that a cache line is read once and not once a row.
template <class T>
void copy_columns(std::byte* to, const std::byte* from, std::int64_t row_stride,
                  std::int64_t column_stride, std::int64_t rows, std::int64_t columns) noexcept {
  constexpr std::int64_t kRows = 64 / static_cast<std::int64_t>(sizeof(T)) * 2;
  constexpr std::int64_t kColumns = 64;  // bounds the destination's lines that are open at once
  for (std::int64_t r0 = 0; r0 < rows; r0 += kRows) {
    const std::int64_t r1 = std::min(rows, r0 + kRows);
    for (std::int64_t c0 = 0; c0 < columns; c0 += kColumns) {
      const std::int64_t c1 = std::min(columns, c0 + kColumns);
      for (std::int64_t c = c0; c < c1; ++c) {
        const std::byte* column = from + c * column_stride;
        for (std::int64_t r = r0; r < r1; ++r) {
          store<T>(to + (r * columns + c) * static_cast<std::int64_t>(sizeof(T)),
                   load<T>(column + r * row_stride));
        }
      }
    }
  }
}

template <class T>
void gather_raw(std::byte* to, const Walk& walk, const std::byte* data, std::uint64_t first,
                std::uint64_t count) {
  const std::size_t dims = walk.sizes.size();
  const auto row = static_cast<std::uint64_t>(walk.sizes.back());
  const std::int64_t stride = walk.strides.back();
  const auto near = [](std::int64_t x) { return x < 0 ? -x : x; };
  const bool by_columns =
      dims >= 2 && row >= 8 && near(walk.strides[dims - 2]) < near(stride);

  Cursor rows(walk, data, first / row, dims - 1);
  if (const std::uint64_t skip = first % row; skip != 0) {
    const std::uint64_t n = std::min(count, row - skip);
    copy_run<T>(to, rows.at() + static_cast<std::int64_t>(skip) * stride, stride, n);
    to += n * sizeof(T);
    count -= n;
    rows.next();
    first += n;
  }
  while (count >= row) {
    std::uint64_t taken = 1;
    if (by_columns) {
      const auto plane = static_cast<std::uint64_t>(walk.sizes[dims - 2]);
      taken = std::min(count / row, plane - first / row % plane);
      copy_columns<T>(to, rows.at(), walk.strides[dims - 2], stride,
                      static_cast<std::int64_t>(taken), static_cast<std::int64_t>(row));
    } else {
      copy_run<T>(to, rows.at(), stride, row);
    }
    for (std::uint64_t i = 0; i < taken; ++i) rows.next();
    to += taken * row * sizeof(T);
    count -= taken * row;
    first += taken * row;
  }
  if (count != 0) copy_run<T>(to, rows.at(), stride, count);
}

void gather_elements(std::byte* to, std::size_t element, const Walk& walk, const std::byte* data,
                     std::uint64_t first, std::uint64_t count) {
  switch (element) {
    case 1: gather_raw<std::uint8_t>(to, walk, data, first, count); break;
    case 2: gather_raw<std::uint16_t>(to, walk, data, first, count); break;
    case 4: gather_raw<std::uint32_t>(to, walk, data, first, count); break;
    default: gather_raw<std::uint64_t>(to, walk, data, first, count); break;
  }
}

}  // namespace

Status cast(void* destination, DType to, const void* source, DType from, std::uint64_t count) {
  auto* out = static_cast<std::byte*>(destination);
  const auto* in = static_cast<const std::byte*>(source);
  if (to == from && dtype_size(to) != 0) {
    if (count != 0) std::memcpy(out, in, count * dtype_size(to));
    return Status::ok();
  }
  const CastFunction each = portable_cast(to, from);
  if (each == nullptr) {
    return {Code::kInvalid, "expected a cast between f64, f32, f16 and bf16, got one from " +
                                std::string(dtype_name(from)) + " to " +
                                std::string(dtype_name(to)) + "; publish this tensor as it is"};
  }
  std::uint64_t done = 0;
  if (const CastFunction vector = vector_cast(to, from); vector != nullptr) {
    done = count - count % 8;
    vector(out, in, done);
  }
  each(out + done * dtype_size(to), in + done * dtype_size(from), count - done);
  return Status::ok();
}

Status gather(void* destination, DType to, const TensorView& tensor, std::uint64_t first,
              std::uint64_t count) {
  const std::size_t element = dtype_size(tensor.info.dtype);
  const auto total = static_cast<std::uint64_t>(tensor.info.elements());
  if (element == 0 || first > total || count > total - first) {
    return {Code::kInvalid, "tensor '" + tensor.info.name + "': expected elements of a known dtype "
                                "inside [0, " + std::to_string(total) + "), got " +
                                std::to_string(count) + " from " + std::to_string(first) + " of " +
                                std::string(dtype_name(tensor.info.dtype))};
  }
  if (!tensor.strides.empty() && tensor.strides.size() != tensor.info.shape.size()) {
    return {Code::kInvalid, "tensor '" + tensor.info.name + "': expected a stride for each of " +
                                std::to_string(tensor.info.shape.size()) + " dimensions, got " +
                                std::to_string(tensor.strides.size())};
  }
  const auto* data = static_cast<const std::byte*>(tensor.data);
  if (count == 0) return cast(destination, to, data, tensor.info.dtype, 0);
  if (is_contiguous(tensor)) {
    return cast(destination, to, data + first * element, tensor.info.dtype, count);
  }
  const Walk walk = simplify(tensor);
  auto* out = static_cast<std::byte*>(destination);
  if (to == tensor.info.dtype) {
    gather_elements(out, element, walk, data, first, count);
    return Status::ok();
  }
  // Gathered a piece at a time, small enough for the stack and the second-level cache.
  alignas(64) std::byte piece[32 * 1024];
  const std::uint64_t most = sizeof piece / element;
  for (std::uint64_t done = 0; done < count;) {
    const std::uint64_t n = std::min(most, count - done);
    gather_elements(piece, element, walk, data, first + done, n);
    if (Status s = cast(out + done * dtype_size(to), to, piece, tensor.info.dtype, n); !s) return s;
    done += n;
  }
  return Status::ok();
}

bool is_contiguous(const TensorView& tensor) noexcept {
  if (tensor.strides.empty()) return true;
  const auto& shape = tensor.info.shape;
  if (tensor.strides.size() != shape.size()) return false;
  if (tensor.info.elements() == 0) return true;
  std::int64_t expected = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    if (shape[d] == 1) continue;
    if (tensor.strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

}  // namespace weightcast::codec
