#include "plan/image_plan.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "plan/boxes.hpp"
#include "plan/bucket_cutter.hpp"
#include "plan/layout_pieces.hpp"
#include "plan/policy_map.hpp"

namespace weightcast::plan {
namespace {

using Joins = BucketCutter::Joins;

/// A plan in the making.
class Planner {
 public:
  Planner(const Manifest& manifest, std::uint64_t bucket_bytes)
      : manifest_(manifest), cutter_(manifest.shares.size(), bucket_bytes) {
    plan_.share_bytes.assign(manifest.shares.size(), 0);
  }

  Status add_payloads();
  Status add_tensors(const PolicyMap& policy);
  Status add_layout(const Layout& layout, const PolicyMap& policy);
  ImagePlan finish();

 private:
  Status take_room(std::uint64_t bytes, std::uint64_t& offset);
  Status add_payload(std::uint32_t share, std::uint64_t offset);
  Status copy(const PolicyMap& policy, const PolicyTensor& tensor, const Box& wanted,
              const ImageTensor& into, Extents origin, Joins joins);
  Holder least_read(const Holder* begin, const Holder* end) const;

  const Manifest& manifest_;
  BucketCutter cutter_;
  ImagePlan plan_;
};

// The next place in the image.
Status Planner::take_room(std::uint64_t bytes, std::uint64_t& offset) {
  constexpr auto kCountable = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  offset = plan_.image_bytes;
  if (bytes > kCountable - offset || kCountable - offset - bytes < kAlignment) {
    return {Code::kInvalid,
            "the image would take more bytes than 63 bits can count; the trainer's "
            "manifest is damaged, or the layout wants too much"};
  }
  plan_.image_bytes = (offset + bytes + kAlignment - 1) / kAlignment * kAlignment;
  return Status::ok();
}

// Of equal boxes the one whose share gives least so far.
Holder Planner::least_read(const Holder* begin, const Holder* end) const {
  return *std::min_element(begin, end, [this](const Holder& x, const Holder& y) {
    return plan_.share_bytes[x.share] < plan_.share_bytes[y.share];
  });
}

// Brings `wanted` of a tensor to `origin` in a tensor of the image.
Status Planner::copy(const PolicyMap& policy, const PolicyTensor& tensor, const Box& wanted,
                     const ImageTensor& into, Extents origin, Joins joins) {
  const std::size_t element = dtype_size(into.info.dtype);
  const auto& holders = tensor.holders;
  for (std::size_t i = 0, next = 0; i < holders.size(); i = next) {
    const Box held = policy.box(holders[i]);
    for (next = i + 1; next < holders.size() && same(held, policy.box(holders[next]));) ++next;
    auto grid = common_runs(held, wanted, into.info.shape, origin, element);
    if (!grid) continue;
    const Holder from = least_read(&holders[i], holders.data() + next);
    const ShareEntry& entry = policy.entry(from);
    grid->source += entry.offset;
    grid->target += into.offset;
    if (Status s = cutter_.add(from.share, *grid, element, joins); !s) return s;
    plan_.share_bytes[from.share] += grid->bytes();
    if (grid->run == entry.info.bytes()) {
      plan_.whole.push_back({from.share, from.entry, grid->target});
    }
  }
  return Status::ok();
}

Status Planner::add_payload(std::uint32_t share, std::uint64_t offset) {
  const auto& entries = manifest_.shares[share].entries;
  std::vector<std::uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t x, std::uint32_t y) {
    return entries[x].offset < entries[y].offset;
  });
  for (const std::uint32_t i : order) {
    RunGrid grid;
    grid.source = entries[i].offset;
    grid.target = offset + entries[i].offset;
    grid.run = entries[i].info.bytes();
    if (grid.run == 0) continue;
    if (Status s = cutter_.add(share, grid, dtype_size(entries[i].info.dtype), Joins::kPadding);
        !s) {
      return s;
    }
  }
  for (std::uint32_t i = 0; i < entries.size(); ++i) {
    plan_.tensors.push_back({entries[i].info, offset + entries[i].offset});
    plan_.whole.push_back({share, i, offset + entries[i].offset});
  }
  return Status::ok();
}

// The shares' payloads as they are, one after the other.
Status Planner::add_payloads() {
  for (std::uint32_t share = 0; share < manifest_.shares.size(); ++share) {
    std::uint64_t offset = 0;
    if (Status s = take_room(manifest_.shares[share].payload_bytes, offset); !s) return s;
    if (Status s = add_payload(share, offset); !s) return s;
  }
  return Status::ok();
}

// Every tensor, put together.
Status Planner::add_tensors(const PolicyMap& policy) {
  for (const PolicyTensor& tensor : policy.tensors()) {
    ImageTensor image{*tensor.info, 0};
    image.info.shape = tensor.info->whole_shape();
    image.info.global_shape.clear();
    image.info.origin.clear();
    if (Status s = take_room(image.info.bytes(), image.offset); !s) return s;
    const Box all{{}, image.info.shape};
    const Joins joins = tensor.info->is_box() ? Joins::kNo : Joins::kPadding;
    if (Status s = copy(policy, tensor, all, image, {}, joins); !s) return s;
    if (!tensor.info->is_box() && image.info.bytes() == 0) {
      plan_.whole.push_back({tensor.holders[0].share, tensor.holders[0].entry, image.offset});
    }
    plan_.tensors.push_back(std::move(image));
  }
  return Status::ok();
}

Status Planner::add_layout(const Layout& layout, const PolicyMap& policy) {
  auto resolved = resolve_layout(layout, policy);
  if (!resolved) return resolved.status();
  for (PieceTensor& tensor : *resolved) {
    ImageTensor image{std::move(tensor.info), 0};
    if (Status s = take_room(image.info.bytes(), image.offset); !s) return s;
    for (const Piece& piece : tensor.pieces) {
      const Box wanted{piece.source_origin, piece.shape};
      if (Status s = copy(policy, *piece.source, wanted, image, piece.origin, Joins::kNo); !s) {
        return s;
      }
    }
    plan_.tensors.push_back(std::move(image));
  }
  return Status::ok();
}

ImagePlan Planner::finish() {
  plan_.buckets = cutter_.finish();
  std::fill(plan_.share_bytes.begin(), plan_.share_bytes.end(), 0);
  for (const PlannedBucket& bucket : plan_.buckets) {
    plan_.share_bytes[bucket.share] += bucket.bytes;
  }
  return std::move(plan_);
}

bool has_boxes(const Manifest& manifest) {
  return std::any_of(manifest.shares.begin(), manifest.shares.end(), [](const Share& share) {
    return std::any_of(share.entries.begin(), share.entries.end(),
                       [](const ShareEntry& entry) { return entry.info.is_box(); });
  });
}

}  // namespace

Result<ImagePlan> plan_image(const Manifest& manifest, const Layout& layout,
                             std::uint64_t bucket_bytes) {
  if (bucket_bytes == 0) return Status(Code::kInvalid, "expected buckets of a byte or more, got 0");
  Planner planner(manifest, bucket_bytes);
  Status status;
  if (!layout.empty()) {
    status = planner.add_layout(layout, PolicyMap(manifest));
  } else if (has_boxes(manifest)) {
    status = planner.add_tensors(PolicyMap(manifest));
  } else {
    status = planner.add_payloads();
  }
  if (!status) return status;
  return planner.finish();
}

}  // namespace weightcast::plan
