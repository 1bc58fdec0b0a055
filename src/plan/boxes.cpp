#include "plan/boxes.hpp"

#include <algorithm>

#include "plan/describe.hpp"

namespace weightcast::plan {
namespace {

__extension__ typedef unsigned __int128 Wide;

// Arithmetic modulo the Mersenne prime 2^61 - 1.
constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;

std::uint64_t add(std::uint64_t x, std::uint64_t y) noexcept { return (x + y) % kPrime; }
std::uint64_t subtract(std::uint64_t x, std::uint64_t y) noexcept {
  return (x + kPrime - y) % kPrime;
}
std::uint64_t multiply(std::uint64_t x, std::uint64_t y) noexcept {
  return static_cast<std::uint64_t>(Wide{x} * y % kPrime);
}

// The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// One dimension, cut wherever a box begins or ends; each piece between two cuts has a weight.
struct CutAxis {
  std::vector<std::int64_t> cuts;   // sorted
  std::vector<std::uint64_t> sums;  // of the weights before each cut

  std::uint64_t weight(std::int64_t begin, std::int64_t end) const {
    const auto at = [this](std::int64_t cut) {
      return sums[static_cast<std::size_t>(std::lower_bound(cuts.begin(), cuts.end(), cut) -
                                           cuts.begin())];
    };
    return subtract(at(end), at(begin));
  }
};

CutAxis cut_axis(const std::vector<Box>& boxes, std::size_t d, std::uint64_t& seed) {
  CutAxis axis;
  axis.cuts.reserve(2 * boxes.size());
  for (const Box& box : boxes) {
    axis.cuts.push_back(box.begin(d));
    axis.cuts.push_back(box.end(d));
  }
  std::sort(axis.cuts.begin(), axis.cuts.end());
  axis.cuts.erase(std::unique(axis.cuts.begin(), axis.cuts.end()), axis.cuts.end());
  axis.sums.reserve(axis.cuts.size());
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < axis.cuts.size(); ++i) {
    axis.sums.push_back(sum);
    seed = mix(seed);
    sum = add(sum, seed % kPrime);
  }
  return axis;
}

}  // namespace

bool Box::is_empty() const noexcept {
  return std::any_of(shape.begin(), shape.end(), [](std::int64_t d) { return d == 0; });
}

Box box_of(const TensorInfo& info) noexcept {
  return {info.is_box() ? Extents(info.origin) : Extents(), info.shape};
}

std::string box_fault(const TensorInfo& info) {
  const std::size_t dims = info.shape.size();
  if (!info.is_box()) {
    if (info.origin.empty()) return {};
    return "expected a global shape beside the origin of a box, got none";
  }
  if (info.global_shape.size() != dims || info.origin.size() != dims) {
    return "expected a box of " + std::to_string(dims) +
           " dimensions to have as many numbers in its global shape and its origin, got " +
           std::to_string(info.global_shape.size()) + " and " + std::to_string(info.origin.size());
  }
  if (!array_bytes(info.global_shape, dtype_size(info.dtype))) {
    return "expected a global shape of dimensions of 0 or more, whose bytes 63 bits can count, "
           "got " +
           listed(info.global_shape);
  }
  if (!is_inside(box_of(info), info.global_shape)) {
    return "expected a box inside " + listed(info.global_shape) + ", got " + listed(info.shape) +
           " at " + listed(info.origin);
  }
  return {};
}

bool before(const Box& x, const Box& y) noexcept {
  for (std::size_t d = 0; d < x.shape.size(); ++d) {
    if (x.begin(d) != y.begin(d)) return x.begin(d) < y.begin(d);
    if (x.shape[d] != y.shape[d]) return x.shape[d] < y.shape[d];
  }
  return false;
}

bool same(const Box& x, const Box& y) noexcept { return !before(x, y) && !before(y, x); }

std::optional<std::int64_t> array_bytes(Extents shape, std::size_t element) noexcept {
  if (shape.size() > kMaxDims) return {};
  auto bytes = static_cast<std::int64_t>(element);
  for (const std::int64_t d : shape) {
    if (d < 0 || __builtin_mul_overflow(bytes, d, &bytes)) return {};
  }
  return bytes;
}

bool is_inside(const Box& box, Extents whole) noexcept {
  if (box.shape.size() != whole.size()) return false;
  if (!box.origin.empty() && box.origin.size() != whole.size()) return false;
  for (std::size_t d = 0; d < whole.size(); ++d) {
    const std::int64_t begin = box.begin(d);
    if (begin < 0 || begin > whole[d]) return false;
    if (box.shape[d] < 0 || box.shape[d] > whole[d] - begin) return false;
  }
  return true;
}

bool fill_exactly(Extents whole, const std::vector<Box>& boxes) {
  // How often each cell between the cuts is covered is compared with once, for all cells together:
  // both sides are sums over cells of the product of the cell's weights, and two different
  // polynomials agree at a random point with a probability of at most degree / kPrime.
  if (Box{{}, whole}.is_empty()) return true;
  std::vector<Box> solid;
  std::uint64_t seed = mix(boxes.size());
  for (const Box& box : boxes) {
    if (box.is_empty()) continue;
    solid.push_back(box);
    for (std::size_t d = 0; d < whole.size(); ++d) {
      seed = mix(seed ^ static_cast<std::uint64_t>(box.begin(d)));
      seed = mix(seed ^ static_cast<std::uint64_t>(box.shape[d]));
    }
  }
  if (solid.empty()) return false;

  std::vector<std::uint64_t> products(solid.size(), 1);
  std::uint64_t expected = 1;
  for (std::size_t d = 0; d < whole.size(); ++d) {
    const CutAxis axis = cut_axis(solid, d, seed);
    if (axis.cuts.front() != 0 || axis.cuts.back() != whole[d]) return false;
    expected = multiply(expected, axis.weight(0, whole[d]));
    for (std::size_t i = 0; i < solid.size(); ++i) {
      products[i] = multiply(products[i], axis.weight(solid[i].begin(d), solid[i].end(d)));
    }
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t product : products) sum = add(sum, product);
  return sum == expected;
}

std::uint64_t RunGrid::bytes() const noexcept {
  std::uint64_t bytes = run;
  for (std::size_t i = 0; i < depth; ++i) bytes *= axes[i].count;
  return bytes;
}

std::uint64_t RunGrid::strips() const noexcept {
  std::uint64_t strips = 1;
  for (std::size_t i = 1; i < depth; ++i) strips *= axes[i].count;
  return strips;
}

std::optional<RunGrid> common_runs(const Box& held, const Box& wanted, Extents target_shape,
                                   Extents target_origin, std::size_t element) noexcept {
  RunGrid grid;
  grid.run = element;
  // Bytes from one index of the dimension to the next.
  std::uint64_t source_step = element, target_step = element;
  for (std::size_t d = held.shape.size(); d-- > 0;) {
    const std::int64_t begin = std::max(held.begin(d), wanted.begin(d));
    const std::int64_t end = std::min(held.end(d), wanted.end(d));
    if (begin >= end) return {};
    const std::int64_t placed =
        begin - wanted.begin(d) + (target_origin.empty() ? 0 : target_origin[d]);
    grid.source += static_cast<std::uint64_t>(begin - held.begin(d)) * source_step;
    grid.target += static_cast<std::uint64_t>(placed) * target_step;
    const auto count = static_cast<std::uint64_t>(end - begin);
    RunGrid::Axis* last = grid.depth > 0 ? &grid.axes[grid.depth - 1] : nullptr;
    if (count == 1) {
      // Nothing repeats.
    } else if (last == nullptr && source_step == grid.run && target_step == grid.run) {
      grid.run *= count;
    } else if (last != nullptr && source_step == last->count * last->source_stride &&
               target_step == last->count * last->target_stride) {
      last->count *= count;
    } else {
      grid.axes[grid.depth++] = {count, source_step, target_step};
    }
    source_step *= static_cast<std::uint64_t>(held.shape[d]);
    target_step *= static_cast<std::uint64_t>(target_shape[d]);
  }
  return grid;
}

}  // namespace weightcast::plan
