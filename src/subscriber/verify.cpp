#include "subscriber/verify.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include "codec/digest.hpp"

namespace weightcast::subscriber {

ShareVerifier::ShareVerifier(const plan::Share& share)
    : share_(share), by_offset_(share.entries.size()), sums_(share.entries.size()) {
  std::iota(by_offset_.begin(), by_offset_.end(), 0u);
  const auto key = [&](std::uint32_t i) {
    return std::pair(share.entries[i].offset, share.entries[i].info.bytes());
  };
  std::sort(by_offset_.begin(), by_offset_.end(),
            [&](std::uint32_t x, std::uint32_t y) { return key(x) < key(y); });
}

template <class Look>
void ShareVerifier::each_tensor(std::uint64_t offset, std::uint64_t bytes, Look&& look) {
  const std::uint64_t end = offset + bytes;
  const auto& entries = share_.entries;
  const auto last = [&](std::uint32_t i) { return entries[i].offset + entries[i].info.bytes(); };
  // Entries do not overlap, so in this order their ends rise too.
  auto at = std::partition_point(by_offset_.begin(), by_offset_.end(),
                                 [&](std::uint32_t i) { return last(i) <= offset; });
  for (; at != by_offset_.end() && entries[*at].offset < end; ++at) {
    const std::uint64_t start = entries[*at].offset;
    const std::uint64_t from = std::max(offset, start);
    const std::uint64_t to = std::min(end, last(*at));
    if (from >= to) continue;
    const base::Digest part = look(from - start, from - offset, to - from);
    sums_[*at].a.fetch_add(part.a, std::memory_order_relaxed);
    sums_[*at].b.fetch_add(part.b, std::memory_order_relaxed);
  }
}

void ShareVerifier::add(std::uint64_t offset, std::span<const std::byte> bytes) {
  each_tensor(offset, bytes.size(),
              [&](std::uint64_t in_tensor, std::uint64_t in_range, std::uint64_t count) {
                return codec::digest(bytes.data() + in_range, count, in_tensor / 8);
              });
}

void ShareVerifier::place(std::uint64_t offset, std::byte* destination,
                          std::span<const std::byte> source) {
  each_tensor(offset, source.size(),
              [&](std::uint64_t in_tensor, std::uint64_t in_range, std::uint64_t count) {
                return codec::copy_then_digest_placed(destination + in_range,
                                                      source.data() + in_range, count,
                                                      in_tensor / 8);
              });
}

Status ShareVerifier::check() const {
  for (std::size_t i = 0; i < sums_.size(); ++i) {
    const base::Digest sum{sums_[i].a.load(), sums_[i].b.load()};
    if (sum == share_.entries[i].digest) continue;
    return Status(Code::kMismatch,
                  "tensor '" + share_.entries[i].info.name +
                      "': the bytes placed here do not have the digest that the trainer (rank " +
                      std::to_string(share_.rank) + ") gave; the version is not served");
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
