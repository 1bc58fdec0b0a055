#include "subscriber/placer.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "codec/digest.hpp"

namespace weightcast::subscriber {
namespace {

constexpr std::uint64_t kWord = 8;
/// Compared while it is in the first-level cache.
constexpr std::size_t kComparedBytes = std::size_t{16} << 10;

std::uint64_t whole_words(std::uint64_t bytes) { return bytes / kWord * kWord; }

std::uint64_t span_of(const plan::CopyStrip& strip) {
  return strip.count == 0 ? 0 : (strip.count - 1) * strip.target_stride + strip.bytes;
}

}  // namespace

ImagePlacer::ImagePlacer(const plan::Manifest& manifest, const plan::ImagePlan& plan,
                         std::span<std::byte> image)
    : plan_(plan), image_(image), sums_(plan.whole.size()) {
  whole_.reserve(plan.whole.size());
  for (const plan::WholeEntry& entry : plan.whole) {
    const plan::Share& share = manifest.shares[entry.share];
    const plan::ShareEntry& of = share.entries[entry.entry];
    whole_.push_back({entry.target, of.info.bytes(), &of, share.rank, false});
  }
  std::uint64_t of_tensors = 0;
  std::uint64_t of_whole = 0;
  for (const plan::ImageTensor& tensor : plan.tensors) of_tensors += tensor.info.bytes();
  for (const Whole& whole : whole_) of_whole += whole.bytes;
  checks_all_ = of_tensors == of_whole;  // entries do not overlap in the image
  // Empty ones first where several begin at the same byte, so that their ends rise too.
  std::sort(whole_.begin(), whole_.end(), [](const Whole& x, const Whole& y) {
    return x.target != y.target ? x.target < y.target : x.bytes < y.bytes;
  });
  first_strip_.reserve(plan.buckets.size() + 1);
  for (const plan::PlannedBucket& bucket : plan.buckets) {
    first_strip_.push_back(strip_ends_.size());
    std::uint64_t end = 0;
    for (const plan::CopyStrip& strip : bucket.strips) {
      end += strip.bytes * strip.count;
      strip_ends_.push_back(end);
      find_late(strip);
    }
  }
  first_strip_.push_back(strip_ends_.size());
}

std::vector<ImagePlacer::Whole>::const_iterator ImagePlacer::first_beyond(
    std::uint64_t target) const {
  return std::partition_point(whole_.begin(), whole_.end(), [&](const Whole& whole) {
    return whole.target + whole.bytes <= target;
  });
}

void ImagePlacer::find_late(const plan::CopyStrip& strip) {
  const std::uint64_t end = strip.target + span_of(strip);
  for (auto at = first_beyond(strip.target); at != whole_.end() && at->target < end; ++at) {
    const std::uint64_t from = std::max(strip.target, at->target) - at->target;
    const std::uint64_t to = std::min(end, at->target + at->bytes) - at->target;
    const bool on_words = from % kWord == 0 && (to % kWord == 0 || to == at->bytes);
    if (strip.count == 1 && on_words) continue;
    whole_[static_cast<std::size_t>(at - whole_.begin())].late = true;
  }
}

void ImagePlacer::place(std::size_t bucket, std::uint64_t at, std::span<const std::byte> source) {
  const auto first = strip_ends_.begin() + static_cast<std::ptrdiff_t>(first_strip_[bucket]);
  const auto last = strip_ends_.begin() + static_cast<std::ptrdiff_t>(first_strip_[bucket + 1]);
  auto end = std::upper_bound(first, last, at);
  while (!source.empty() && end != last) {
    const auto& strip = plan_.buckets[bucket].strips[static_cast<std::size_t>(end - first)];
    const std::uint64_t begin = *end - strip.bytes * strip.count;
    const auto part = source.first(std::min<std::uint64_t>(source.size(), *end - at));
    if (strip.count == 1) {
      place_single(strip, at - begin, part);
    } else {
      place_runs(strip, at - begin, part);
    }
    at += part.size();
    source = source.subspan(part.size());
    ++end;
  }
}

void ImagePlacer::place_single(const plan::CopyStrip& strip, std::uint64_t from,
                               std::span<const std::byte> source) {
  std::uint64_t target = strip.target + from;
  for (auto at = first_beyond(target); !source.empty(); ++at) {
    if (at != whole_.end() && at->bytes == 0) continue;
    const std::uint64_t begins = at == whole_.end() ? kNone : at->target;
    if (target < begins) {
      const auto before = source.first(std::min<std::uint64_t>(source.size(), begins - target));
      place_compared(target, before);
      target += before.size();
      source = source.subspan(before.size());
    }
    if (source.empty()) return;
    const auto inside =
        source.first(std::min<std::uint64_t>(source.size(), at->target + at->bytes - target));
    if (at->late) {
      place_compared(target, inside);
    } else {
      place_whole(static_cast<std::size_t>(at - whole_.begin()), target,
                  strip.target + strip.bytes, inside);
    }
    target += inside.size();
    source = source.subspan(inside.size());
  }
}

void ImagePlacer::place_whole(std::size_t index, std::uint64_t target, std::uint64_t strip_end,
                              std::span<const std::byte> source) {
  const Whole& whole = whole_[index];
  const std::uint64_t from = target - whole.target;
  const std::uint64_t to = from + source.size();
  const std::uint64_t run_end = std::min(strip_end - whole.target, whole.bytes);
  // A piece may be cut within a word; the rest of that word comes with the bucket's next piece.
  const std::uint64_t digest_from = whole_words(from);
  const std::uint64_t digest_to = to == run_end ? to : whole_words(to);
  std::byte* const destination = image_.data() + target;
  base::Digest part;
  if (digest_from == from && digest_to == to) {
    part = codec::copy_then_digest_placed(destination, source.data(), source.size(), from / kWord);
  } else {
    std::memcpy(destination, source.data(), source.size());
    if (digest_to > digest_from) {
      part = codec::digest(image_.data() + whole.target + digest_from, digest_to - digest_from,
                           digest_from / kWord);
    }
  }
  sums_[index].a.fetch_add(part.a, std::memory_order_relaxed);
  sums_[index].b.fetch_add(part.b, std::memory_order_relaxed);
}

void ImagePlacer::place_runs(const plan::CopyStrip& strip, std::uint64_t from,
                             std::span<const std::byte> source) {
  while (!source.empty()) {
    const std::uint64_t run = from / strip.bytes;
    const std::uint64_t in_run = from % strip.bytes;
    const auto part = source.first(std::min<std::uint64_t>(source.size(), strip.bytes - in_run));
    place_compared(strip.target + run * strip.target_stride + in_run, part);
    from += part.size();
    source = source.subspan(part.size());
  }
}

void ImagePlacer::place_compared(std::uint64_t target, std::span<const std::byte> source) {
  while (!source.empty()) {
    const auto piece = source.first(std::min(source.size(), kComparedBytes));
    std::byte* const destination = image_.data() + target;
    std::memcpy(destination, piece.data(), piece.size());
    asm volatile("" ::: "memory");  // what is compared is what lies there, not what was just written
    if (std::memcmp(destination, piece.data(), piece.size()) != 0) wrong_ = target;
    target += piece.size();
    source = source.subspan(piece.size());
  }
}

Status ImagePlacer::check() const {
  for (std::size_t i = 0; i < whole_.size(); ++i) {
    const Whole& whole = whole_[i];
    const base::Digest found =
        whole.late ? codec::digest(image_.data() + whole.target, whole.bytes, 0)
                   : base::Digest{sums_[i].a.load(), sums_[i].b.load()};
    if (found == whole.entry->digest) continue;
    return Status(Code::kMismatch,
                  "tensor '" + whole.entry->info.name +
                      "': the bytes placed here do not have the digest that the trainer (rank " +
                      std::to_string(whole.rank) + ") gave; the version is not served");
  }
  if (const std::uint64_t wrong = wrong_; wrong != kNone) {
    return Status(Code::kMismatch, "tensor '" + tensor_at(wrong) +
                                       "': the bytes placed here are not those that came; the "
                                       "version is not served");
  }
  return Status::ok();
}

std::string ImagePlacer::tensor_at(std::uint64_t target) const {
  for (const plan::ImageTensor& tensor : plan_.tensors) {
    if (target >= tensor.offset && target - tensor.offset < tensor.info.bytes()) {
      return tensor.info.name;
    }
  }
  return "?";
}

}  // namespace weightcast::subscriber
