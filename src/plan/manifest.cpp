#include "plan/manifest.hpp"

#include <algorithm>
#include <limits>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "plan/boxes.hpp"
#include "plan/describe.hpp"

namespace weightcast::plan {
namespace {

/// A tensor of which some shares have a box.
struct Sharded {
  const Share* first_share = nullptr;
  const ShareEntry* first = nullptr;
  const Share* last_share = nullptr;
  std::vector<Box> boxes;
};

/// What the shares looked at so far are made of.
struct Seen {
  std::unordered_set<std::string_view> names;  ///< and aliases
  std::vector<Sharded> sharded;
  std::unordered_map<std::string_view, std::size_t> sharded_by_name;
};

std::string where(const Share& share, const ShareEntry& entry) {
  return "rank " + std::to_string(share.rank) + ", tensor " + quoted(entry.info.name) + ": ";
}

constexpr const char* kSuspect =
    "; the sender is damaged or runs another weightcast: run the same version on both sides";

Status suspicious(std::string what) { return {Code::kInvalid, std::move(what) + kSuspect}; }

Status check_name(const Share& share, const ShareEntry& entry, std::string_view name, Seen& seen) {
  if (name.empty()) return suspicious(where(share, entry) + "expected a name, got an empty one");
  if (name.size() > kMaxNameBytes) {
    return suspicious(where(share, entry) + "expected a name of at most " +
                   std::to_string(kMaxNameBytes) + " bytes, got " + std::to_string(name.size()));
  }
  if (name.find('\0') != std::string_view::npos) {
    return suspicious(where(share, entry) + "expected a name without NUL bytes");
  }
  if (!seen.names.insert(name).second) {
    return suspicious(where(share, entry) + "expected every name and alias once, got " + quoted(name) +
                   " twice");
  }
  if (seen.names.size() > kMaxTensors) {
    return suspicious("expected at most " + std::to_string(kMaxTensors) +
                   " names and aliases, got more");
  }
  return Status::ok();
}

Status check_names(const Share& share, const ShareEntry& entry, Seen& seen) {
  if (Status s = check_name(share, entry, entry.info.name, seen); !s) return s;
  for (const std::string& alias : entry.info.aliases) {
    if (Status s = check_name(share, entry, alias, seen); !s) return s;
  }
  return Status::ok();
}

// TensorInfo::bytes() may be called only after this: it multiplies without looking. Not even a
// dimension of 0 excuses an overflow before it.
Status check_shape(const Share& share, const ShareEntry& entry) {
  const TensorInfo& info = entry.info;
  const std::size_t size = dtype_size(info.dtype);
  if (size == 0) {
    return suspicious(where(share, entry) + "unknown dtype " +
                   std::to_string(static_cast<unsigned>(info.dtype)));
  }
  if (info.shape.size() > kMaxDims) {
    return suspicious(where(share, entry) + "expected at most " + std::to_string(kMaxDims) +
                   " dimensions, got " + std::to_string(info.shape.size()));
  }
  for (const std::int64_t d : info.shape) {
    if (d >= 0) continue;
    return suspicious(where(share, entry) + "expected dimensions of 0 or more, got " +
                   std::to_string(d));
  }
  if (!array_bytes(info.shape, size)) {
    return suspicious(where(share, entry) + "its shape holds more bytes than 63 bits can count");
  }
  return Status::ok();
}

// What two boxes of one tensor do not agree on; null: nothing.
const char* difference(const TensorInfo& x, const TensorInfo& y) {
  if (x.dtype != y.dtype) return "dtype";
  if (x.global_shape != y.global_shape) return "global shape";
  if (x.aliases != y.aliases) return "aliases";
  if (x.buffer != y.buffer) return "kind (buffer or parameter)";
  return nullptr;
}

// Takes note of a box, of a tensor that is new or known.
Status see_box(const Share& share, const ShareEntry& entry, Seen& seen) {
  const auto [found, is_new] =
      seen.sharded_by_name.try_emplace(entry.info.name, seen.sharded.size());
  if (is_new) {
    if (Status s = check_names(share, entry, seen); !s) return s;
    seen.sharded.push_back({&share, &entry, nullptr, {}});
  }
  Sharded& tensor = seen.sharded[found->second];
  if (tensor.last_share == &share) {
    return suspicious(where(share, entry) + "expected one box of it in a share, got it twice");
  }
  tensor.last_share = &share;
  if (const char* what = difference(tensor.first->info, entry.info)) {
    return suspicious(where(share, entry) + "expected a box of the tensor that rank " +
                   std::to_string(tensor.first_share->rank) + " has a box of, got one of another " +
                   what);
  }
  tensor.boxes.push_back(box_of(entry.info));
  return Status::ok();
}

// Whether its boxes are identical or disjoint and fill it.
Status check_filled(Sharded& tensor) {
  const TensorInfo& info = tensor.first->info;
  auto& boxes = tensor.boxes;
  std::sort(boxes.begin(), boxes.end(), before);
  boxes.erase(std::unique(boxes.begin(), boxes.end(), same), boxes.end());
  if (fill_exactly(info.global_shape, boxes)) return Status::ok();

  const std::int64_t whole = *array_bytes(info.global_shape, 1);
  std::int64_t held = 0;
  std::string got = "more of them than 63 bits can count";
  const bool is_counted = std::all_of(boxes.begin(), boxes.end(), [&](const Box& box) {
    return !__builtin_add_overflow(held, *array_bytes(box.shape, 1), &held);
  });
  if (is_counted) got = std::to_string(held);
  const char* what = !is_counted || held > whole ? ": some overlap"
                     : held == whole             ? ": some overlap, and as much is missing"
                                                 : nullptr;
  const std::string missing = ": at least " + std::to_string(whole - held) + " are missing";
  return {Code::kInvalid, "tensor " + quoted(info.name) +
                              ": expected the ranks' boxes to be identical or disjoint " +
                              "and to fill " + listed(info.global_shape) + ", " +
                              std::to_string(whole) + " elements, got boxes of " + got +
                              (what != nullptr ? what : missing) +
                              "; list on every rank the box that it holds"};
}

Status check_place(const Share& share, const ShareEntry& entry) {
  const std::uint64_t bytes = entry.info.bytes();
  if (entry.offset % kAlignment != 0) {
    return suspicious(where(share, entry) + "expected an offset that is a multiple of " +
                   std::to_string(kAlignment) + ", got " + std::to_string(entry.offset));
  }
  if (entry.offset > share.payload_bytes || bytes > share.payload_bytes - entry.offset) {
    return suspicious(where(share, entry) + "expected to lie inside the payload of " +
                   std::to_string(share.payload_bytes) + " bytes, got " + std::to_string(bytes) +
                   " bytes at " + std::to_string(entry.offset));
  }
  return Status::ok();
}

Status check_overlaps(const Share& share) {
  std::vector<const ShareEntry*> order;
  order.reserve(share.entries.size());
  for (const ShareEntry& entry : share.entries) {
    if (entry.info.bytes() > 0) order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(),
            [](const ShareEntry* x, const ShareEntry* y) { return x->offset < y->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->info.bytes() > order[i]->offset) {
      return suspicious(where(share, *order[i]) + "overlaps tensor " +
                     quoted(order[i - 1]->info.name));
    }
  }
  return Status::ok();
}

Status check_share_into(const Share& share, Seen& seen) {
  if (share.object.size() > kMaxNameBytes) {
    return suspicious("rank " + std::to_string(share.rank) + ": expected an object name of at most " +
                   std::to_string(kMaxNameBytes) + " bytes, got " +
                   std::to_string(share.object.size()));
  }
  if (share.entries.size() > kMaxTensors) {
    return suspicious("rank " + std::to_string(share.rank) + ": expected at most " +
                   std::to_string(kMaxTensors) + " tensors, got " +
                   std::to_string(share.entries.size()));
  }
  if (share.payload_bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return suspicious("rank " + std::to_string(share.rank) +
                   ": expected a payload that 63 bits can count, got " +
                   std::to_string(share.payload_bytes) + " bytes");
  }
  for (const ShareEntry& entry : share.entries) {
    const bool is_box = entry.info.is_box();
    if (Status s = is_box ? see_box(share, entry, seen) : check_names(share, entry, seen); !s) {
      return s;
    }
    if (Status s = check_shape(share, entry); !s) return s;
    if (const std::string fault = box_fault(entry.info); !fault.empty()) {
      return suspicious(where(share, entry) + fault);
    }
    if (Status s = check_place(share, entry); !s) return s;
  }
  return check_overlaps(share);
}

}  // namespace

std::uint64_t Manifest::bytes() const noexcept {
  std::uint64_t sum = 0;
  for (const Share& share : shares) {
    for (const ShareEntry& entry : share.entries) sum += entry.info.bytes();
  }
  return sum;
}

std::size_t Manifest::tensor_count() const noexcept {
  std::size_t count = 0;
  for (const Share& share : shares) count += share.entries.size();
  return count;
}

Status check_share(const Share& share) {
  Seen seen;
  return check_share_into(share, seen);
}

Status check_manifest(const Manifest& manifest) {
  if (manifest.shares.empty()) return suspicious("expected a manifest with a share, got none");
  Seen seen;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < manifest.shares.size(); ++i) {
    const Share& share = manifest.shares[i];
    if (share.rank != i) {
      return suspicious("expected the share of rank " + std::to_string(i) + ", got that of rank " +
                     std::to_string(share.rank));
    }
    if (Status s = check_share_into(share, seen); !s) return s;
    if (__builtin_add_overflow(total, share.payload_bytes, &total)) {
      return suspicious("the payloads add up to more bytes than 64 bits can count");
    }
  }
  for (Sharded& tensor : seen.sharded) {
    if (Status s = check_filled(tensor); !s) return s;
  }
  return Status::ok();
}

}  // namespace weightcast::plan
