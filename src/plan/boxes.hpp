// Boxes of row-major arrays: whether they lie inside, whether they fill a whole, and which runs of
// bytes two of them share.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plan/manifest.hpp"

namespace weightcast::plan {

using Extents = std::span<const std::int64_t>;

/// A box within an array of as many dimensions. Views: what it was made of outlives it.
struct Box {
  Extents origin;  ///< index of its first element; empty: zeros
  Extents shape;

  std::int64_t begin(std::size_t d) const noexcept { return origin.empty() ? 0 : origin[d]; }
  std::int64_t end(std::size_t d) const noexcept { return begin(d) + shape[d]; }
  bool is_empty() const noexcept;
};

/// Where `info`'s elements lie in the whole tensor.
Box box_of(const TensorInfo& info) noexcept;

/// What is wrong with the global shape and the origin of `info`, whose own shape is sound; empty
/// where nothing is. Any numbers may be in them. "expected ..., got ..."
std::string box_fault(const TensorInfo& info);

/// An order of boxes of the same number of dimensions; equal ones are the same box.
bool before(const Box& x, const Box& y) noexcept;
bool same(const Box& x, const Box& y) noexcept;

/// Bytes of an array of elements of that size. None where it has a negative dimension, more than
/// kMaxDims of them, or more bytes than 63 bits can count (a dimension of 0 excuses none of these).
std::optional<std::int64_t> array_bytes(Extents shape, std::size_t element) noexcept;

/// Whether `box` has as many dimensions as `whole` and lies inside. Any numbers may be in it.
bool is_inside(const Box& box, Extents whole) noexcept;

/// Whether each element of an array is in exactly one of the boxes, all of which are inside it.
/// Takes time n log n in the number of boxes, however they lie. Compares sums of products of
/// weights that depend on all boxes: says yes wrongly with a probability below 2^-56 (Schwartz and
/// Zippel).
/// @param whole array_bytes() of it is known
bool fill_exactly(Extents whole, const std::vector<Box>& boxes);

/// Runs of bytes, `run` each, that lie in a grid in two places.
struct RunGrid {
  struct Axis {
    std::uint64_t count = 1;
    std::uint64_t source_stride = 0;
    std::uint64_t target_stride = 0;
  };
  std::uint64_t source = 0;  ///< first byte of the first run
  std::uint64_t target = 0;
  std::uint64_t run = 0;
  std::array<Axis, kMaxDims> axes{};  ///< innermost first; the first `depth` count
  std::size_t depth = 0;

  std::uint64_t bytes() const noexcept;
  /// Strips (runs of one stride) that it takes: one for each index of the axes beyond the first.
  std::uint64_t strips() const noexcept;
};

/// What `wanted` (a box of the whole tensor, which goes to `target_origin` in an array of
/// `target_shape`) has in common with `held` (another, which lies on its own, row-major). Runs that
/// are adjacent in both places are one. None where they have nothing in common.
/// Precondition: all have the same number of dimensions, at most kMaxDims; both arrays' bytes are
/// known to array_bytes(); `wanted` fits into the target.
std::optional<RunGrid> common_runs(const Box& held, const Box& wanted, Extents target_shape,
                                   Extents target_origin, std::size_t element) noexcept;

}  // namespace weightcast::plan
