#include "plan/manifest.hpp"

#include <algorithm>
#include <limits>
#include <string_view>
#include <unordered_set>

namespace weightcast::plan {
namespace {

using Names = std::unordered_set<std::string_view>;

// What a peer sent goes into a log line: printable, and not longer than a line.
std::string quoted(std::string_view name) {
  constexpr std::size_t kShown = 120;
  std::string text = "'";
  for (char c : name.substr(0, kShown)) text += (c >= ' ' && c <= '~') ? c : '?';
  text += name.size() > kShown ? "...'" : "'";
  return text;
}

std::string where(const Share& share, const ShareEntry& entry) {
  return "rank " + std::to_string(share.rank) + ", tensor " + quoted(entry.info.name) + ": ";
}

constexpr const char* kSuspect =
    "; the sender is damaged or runs another weightcast: run the same version on both sides";

Status invalid(std::string what) { return {Code::kInvalid, std::move(what) + kSuspect}; }

Status check_name(const Share& share, const ShareEntry& entry, std::string_view name,
                  Names& names) {
  if (name.empty()) return invalid(where(share, entry) + "expected a name, got an empty one");
  if (name.size() > kMaxNameBytes) {
    return invalid(where(share, entry) + "expected a name of at most " +
                   std::to_string(kMaxNameBytes) + " bytes, got " + std::to_string(name.size()));
  }
  if (name.find('\0') != std::string_view::npos) {
    return invalid(where(share, entry) + "expected a name without NUL bytes");
  }
  if (!names.insert(name).second) {
    return invalid(where(share, entry) + "expected every name and alias once, got " + quoted(name) +
                   " twice");
  }
  if (names.size() > kMaxTensors) {
    return invalid("expected at most " + std::to_string(kMaxTensors) +
                   " names and aliases, got more");
  }
  return Status::ok();
}

// TensorInfo::bytes() may be called only after this: it multiplies without looking. Not even a
// dimension of 0 excuses an overflow before it.
Status check_shape(const Share& share, const ShareEntry& entry) {
  const TensorInfo& info = entry.info;
  const std::size_t size = dtype_size(info.dtype);
  if (size == 0) {
    return invalid(where(share, entry) + "unknown dtype " +
                   std::to_string(static_cast<unsigned>(info.dtype)));
  }
  if (info.shape.size() > kMaxDims) {
    return invalid(where(share, entry) + "expected at most " + std::to_string(kMaxDims) +
                   " dimensions, got " + std::to_string(info.shape.size()));
  }
  std::int64_t bytes = static_cast<std::int64_t>(size);
  for (std::int64_t d : info.shape) {
    if (d < 0) {
      return invalid(where(share, entry) + "expected dimensions of 0 or more, got " +
                     std::to_string(d));
    }
    if (__builtin_mul_overflow(bytes, d, &bytes)) {
      return invalid(where(share, entry) + "its shape holds more bytes than 63 bits can count");
    }
  }
  return Status::ok();
}

Status check_place(const Share& share, const ShareEntry& entry) {
  const std::uint64_t bytes = entry.info.bytes();
  if (entry.offset % kAlignment != 0) {
    return invalid(where(share, entry) + "expected an offset that is a multiple of " +
                   std::to_string(kAlignment) + ", got " + std::to_string(entry.offset));
  }
  if (entry.offset > share.payload_bytes || bytes > share.payload_bytes - entry.offset) {
    return invalid(where(share, entry) + "expected to lie inside the payload of " +
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
      return invalid(where(share, *order[i]) + "overlaps tensor " +
                     quoted(order[i - 1]->info.name));
    }
  }
  return Status::ok();
}

Status check_share_into(const Share& share, Names& names) {
  if (share.object.size() > kMaxNameBytes) {
    return invalid("rank " + std::to_string(share.rank) + ": expected an object name of at most " +
                   std::to_string(kMaxNameBytes) + " bytes, got " +
                   std::to_string(share.object.size()));
  }
  if (share.entries.size() > kMaxTensors) {
    return invalid("rank " + std::to_string(share.rank) + ": expected at most " +
                   std::to_string(kMaxTensors) + " tensors, got " +
                   std::to_string(share.entries.size()));
  }
  if (share.payload_bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return invalid("rank " + std::to_string(share.rank) +
                   ": expected a payload that 63 bits can count, got " +
                   std::to_string(share.payload_bytes) + " bytes");
  }
  for (const ShareEntry& entry : share.entries) {
    if (Status s = check_name(share, entry, entry.info.name, names); !s) return s;
    for (const std::string& alias : entry.info.aliases) {
      if (Status s = check_name(share, entry, alias, names); !s) return s;
    }
    if (Status s = check_shape(share, entry); !s) return s;
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
  Names names;
  return check_share_into(share, names);
}

Status check_manifest(const Manifest& manifest) {
  if (manifest.shares.empty()) return invalid("expected a manifest with a share, got none");
  Names names;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < manifest.shares.size(); ++i) {
    const Share& share = manifest.shares[i];
    if (share.rank != i) {
      return invalid("expected the share of rank " + std::to_string(i) + ", got that of rank " +
                     std::to_string(share.rank));
    }
    if (Status s = check_share_into(share, names); !s) return s;
    if (__builtin_add_overflow(total, share.payload_bytes, &total)) {
      return invalid("the payloads add up to more bytes than 64 bits can count");
    }
  }
  return Status::ok();
}

}  // namespace weightcast::plan
