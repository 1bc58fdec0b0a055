// Places planned buckets in an image and checks what lies there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "plan/image_plan.hpp"
#include "plan/manifest.hpp"

namespace weightcast::subscriber {

/// What the manifest has a digest for (entries that lie whole in the image) is checked by it, over
/// the bytes that were placed and while they are in cache; the rest, by comparing what was placed
/// with what came.
/// Thread safety: place() for different buckets from many threads at once.
class ImagePlacer {
 public:
  /// All three outlive this. `image` has plan.image_bytes bytes.
  ImagePlacer(const plan::Manifest& manifest, const plan::ImagePlan& plan,
              std::span<std::byte> image);

  /// Places bytes [at, at + source.size()) of plan.buckets[bucket]. For each bucket pieces come one
  /// after the other.
  void place(std::size_t bucket, std::uint64_t at, std::span<const std::byte> source);

  /// Whether check() compares digests of every byte of every tensor, so that nothing else need.
  bool checks_all() const noexcept { return checks_all_; }

  /// Once every bucket was placed. @return kMismatch that names the tensor
  Status check() const;

 private:
  struct Sum {
    std::atomic<std::uint64_t> a{0};
    std::atomic<std::uint64_t> b{0};
  };
  /// A WholeEntry, in the order of the image.
  struct Whole {
    std::uint64_t target = 0;
    std::uint64_t bytes = 0;
    const plan::ShareEntry* entry = nullptr;
    std::uint32_t rank = 0;
    bool late = false;  ///< cut within a word: its digest is taken once all is there
  };
  static constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

  std::vector<Whole>::const_iterator first_beyond(std::uint64_t target) const;
  void find_late(const plan::CopyStrip& strip);
  void place_single(const plan::CopyStrip& strip, std::uint64_t from,
                    std::span<const std::byte> source);
  void place_runs(const plan::CopyStrip& strip, std::uint64_t from,
                  std::span<const std::byte> source);
  void place_whole(std::size_t index, std::uint64_t target, std::uint64_t strip_end,
                   std::span<const std::byte> source);
  void place_compared(std::uint64_t target, std::span<const std::byte> source);
  std::string tensor_at(std::uint64_t target) const;

  const plan::ImagePlan& plan_;
  const std::span<std::byte> image_;
  std::vector<Whole> whole_;
  bool checks_all_ = false;
  std::vector<Sum> sums_;                  ///< one for each of whole_
  std::vector<std::uint64_t> strip_ends_;  ///< in the bucket's bytes; all buckets' one after another
  std::vector<std::size_t> first_strip_;   ///< by bucket: where its part of strip_ends_ begins
  std::atomic<std::uint64_t> wrong_{kNone};  ///< a byte of the image that differed from what came
};

}  // namespace weightcast::subscriber
