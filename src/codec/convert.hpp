// From a tensor as the trainer holds it to its canonical bytes: strides and casts.
#pragma once

#include <cstdint>

#include <weightcast/types.hpp>

namespace weightcast::codec {

/// Casts `count` elements. Floating to floating rounds to nearest even, as IEEE and torch do; NaN
/// stays NaN and infinities stay. Equal dtypes copy. Others are kInvalid: integers are never cast.
Status cast(void* destination, DType to, const void* source, DType from, std::uint64_t count);

/// Writes elements [first, first + count) of the row-major order of `tensor` contiguously, cast to
/// `to`. Handles any strides, 0 and negative ones included.
/// @param destination count * dtype_size(to) bytes, not overlapping the tensor
Status gather(void* destination, DType to, const TensorView& tensor, std::uint64_t first,
              std::uint64_t count);

/// True where the elements lie row-major without gaps (dimensions of size 1 do not matter).
bool is_contiguous(const TensorView& tensor) noexcept;

}  // namespace weightcast::codec
