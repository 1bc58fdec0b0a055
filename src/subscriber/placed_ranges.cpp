#include "subscriber/placed_ranges.hpp"

namespace weightcast::subscriber {

PlacedRanges::PlacedRanges(const plan::Manifest& manifest, const plan::ImagePlan& plan)
    : plan_(plan) {
  whole_.reserve(plan.whole.size());
  for (const plan::WholeEntry& entry : plan.whole) {
    const plan::Share& share = manifest.shares[entry.share];
    const plan::ShareEntry& of = share.entries[entry.entry];
    whole_.push_back({entry.target, of.info.bytes(), &of, share.rank});
  }
  // Empty ones first where several begin at the same byte, so that their ends rise too.
  std::sort(whole_.begin(), whole_.end(), [](const Whole& x, const Whole& y) {
    return x.target != y.target ? x.target < y.target : x.bytes < y.bytes;
  });
  std::vector<Range> tensors;
  tensors.reserve(plan.tensors.size());
  for (const plan::ImageTensor& tensor : plan.tensors) {
    tensors.push_back({tensor.offset, tensor.offset + tensor.info.bytes()});
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const Range& x, const Range& y) { return x.begin < y.begin; });
  auto at = whole_.begin();  // neither tensors nor entries overlap in the image
  for (const Range& tensor : tensors) {
    std::uint64_t from = tensor.begin;
    for (; at != whole_.end() && at->target < tensor.end; ++at) {
      if (at->bytes == 0) continue;
      if (from < at->target) others_.push_back({from, at->target});
      from = at->target + at->bytes;
    }
    if (from < tensor.end) others_.push_back({from, tensor.end});
  }
}

std::string PlacedRanges::describe(std::uint64_t target) const {
  for (const plan::ImageTensor& tensor : plan_.tensors) {
    if (target >= tensor.offset && target - tensor.offset < tensor.info.bytes()) {
      return "tensor '" + tensor.info.name + "'";
    }
  }
  return "byte " + std::to_string(target) + " of the image";
}

}  // namespace weightcast::subscriber
