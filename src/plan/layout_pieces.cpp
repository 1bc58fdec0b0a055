#include "plan/layout_pieces.hpp"

#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "plan/boxes.hpp"
#include "plan/describe.hpp"

namespace weightcast::plan {
namespace {

std::string where(const LayoutTensor& wanted) {
  return "layout, tensor " + quoted(wanted.name) + ": ";
}

std::string where(const LayoutTensor& wanted, const LayoutPiece& piece) {
  return "layout, tensor " + quoted(wanted.name) + ", piece of " + quoted(piece.source) + ": ";
}

Status mismatch(std::string what) {
  return {Code::kMismatch, std::move(what) + "; make the layout for the model that is trained"};
}

Status invalid_layout(std::string what) {
  return {Code::kInvalid, std::move(what) + "; correct the layout"};
}

// Fills in what the piece leaves out.
Result<Piece> resolve(const LayoutTensor& wanted, const LayoutPiece& piece,
                      const PolicyMap& policy) {
  Piece out;
  out.source = policy.find(piece.source);
  if (out.source == nullptr) {
    return mismatch(where(wanted, piece) + "the policy has no tensor of that name");
  }
  const std::vector<std::int64_t>& whole = out.source->info->whole_shape();
  const std::size_t dims = whole.size();
  if (wanted.shape.size() != dims) {
    return mismatch(where(wanted, piece) + "expected as many dimensions as the layout's " +
                    listed(wanted.shape) + " has, got " + listed(whole));
  }
  for (const auto* numbers : {&piece.source_origin, &piece.shape, &piece.origin}) {
    if (!numbers->empty() && numbers->size() != dims) {
      return invalid_layout(where(wanted, piece) + "expected " + std::to_string(dims) +
                     " numbers for each origin and shape, got " + listed(*numbers));
    }
  }
  const std::vector<std::int64_t> zeros(dims, 0);
  out.source_origin = piece.source_origin.empty() ? zeros : piece.source_origin;
  out.origin = piece.origin.empty() ? zeros : piece.origin;
  out.shape = piece.shape;
  if (out.shape.empty()) {
    out.shape = whole;
    for (std::size_t d = 0; d < dims; ++d) {
      const std::int64_t at = out.source_origin[d];
      if (at >= 0 && at <= whole[d]) out.shape[d] -= at;  // else it lies outside, as found below
    }
  }
  if (!is_inside({out.source_origin, out.shape}, whole)) {
    return mismatch(where(wanted, piece) + "expected a box inside " + listed(whole) + ", got " +
                    listed(out.shape) + " at " + listed(out.source_origin));
  }
  if (!is_inside({out.origin, out.shape}, wanted.shape)) {
    const std::string what = where(wanted, piece) + "expected it to fit into " +
                             listed(wanted.shape) + ", got " + listed(out.shape) + " at " +
                             listed(out.origin);
    return piece.shape.empty() ? mismatch(what) : invalid_layout(what);
  }
  return out;
}

// Whether the pieces fill the shape, each element once.
Status check_filled(const LayoutTensor& wanted, const PieceTensor& tensor) {
  bool is_given = true;  // by the layout alone
  std::vector<Box> boxes;
  std::int64_t elements = 0;
  for (std::size_t i = 0; i < tensor.pieces.size(); ++i) {
    const Piece& piece = tensor.pieces[i];
    boxes.push_back({piece.origin, piece.shape});
    is_given = is_given && !wanted.pieces[i].shape.empty();
    if (__builtin_add_overflow(elements, *array_bytes(piece.shape, 1), &elements)) {
      return invalid_layout(where(wanted) + "its pieces hold more elements than 63 bits can count");
    }
  }
  if (fill_exactly(wanted.shape, boxes)) return Status::ok();
  const std::int64_t whole = *array_bytes(wanted.shape, 1);
  const std::string what = where(wanted) + "expected disjoint pieces that fill " +
                           listed(wanted.shape) + ", " + std::to_string(whole) +
                           " elements, got pieces of " + std::to_string(elements) +
                           (elements < whole ? "" : ", some of which overlap");
  return is_given ? invalid_layout(what) : mismatch(what);
}

Result<PieceTensor> resolve(const LayoutTensor& wanted, const PolicyMap& policy) {
  PieceTensor out;
  if (wanted.pieces.empty()) return invalid_layout(where(wanted) + "expected a piece, got none");
  for (const LayoutPiece& piece : wanted.pieces) {
    Result<Piece> resolved = resolve(wanted, piece, policy);
    if (!resolved) return resolved.status();
    out.pieces.push_back(std::move(*resolved));
  }
  const TensorInfo& first = *out.pieces.front().source->info;
  for (const Piece& piece : out.pieces) {
    if (piece.source->info->dtype == first.dtype) continue;
    return mismatch(where(wanted) + "expected pieces of one dtype, got " + quoted(first.name) +
                    " of " + std::string(dtype_name(first.dtype)) + " and " +
                    quoted(piece.source->info->name) + " of " +
                    std::string(dtype_name(piece.source->info->dtype)));
  }
  if (!array_bytes(wanted.shape, dtype_size(first.dtype))) {
    return invalid_layout(where(wanted) + "expected at most " + std::to_string(kMaxDims) +
                   " dimensions of 0 or more whose bytes 63 bits can count, got " +
                   listed(wanted.shape));
  }
  if (Status s = check_filled(wanted, out); !s) return s;
  out.info.name = wanted.name;
  out.info.dtype = first.dtype;
  out.info.shape = wanted.shape;
  out.info.buffer = first.buffer;
  return out;
}

}  // namespace

Result<std::vector<PieceTensor>> resolve_layout(const Layout& layout, const PolicyMap& policy) {
  std::vector<PieceTensor> tensors;
  std::unordered_set<std::string_view> names;
  for (const LayoutTensor& wanted : layout) {
    if (wanted.name.empty()) return invalid_layout("layout: expected a name for every tensor");
    if (!names.insert(wanted.name).second) {
      return invalid_layout(where(wanted) + "expected every name once, got it twice");
    }
    Result<PieceTensor> resolved = resolve(wanted, policy);
    if (!resolved) return resolved.status();
    tensors.push_back(std::move(*resolved));
  }
  return tensors;
}

}  // namespace weightcast::plan
