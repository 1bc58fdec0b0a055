// Compares digests that a device computes of what lies in its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/digest.hpp"
#include "driver/cuda.hpp"
#include "subscriber/placed_ranges.hpp"

namespace weightcast::subscriber {

/// With one allocation for all its checks; these wait in batches until the device has done them.
/// Thread safety: one thread.
class DeviceChecks {
 public:
  static Result<std::unique_ptr<DeviceChecks>> make(std::shared_ptr<driver::Cuda> cuda, int device);
  ~DeviceChecks();
  DeviceChecks(const DeviceChecks&) = delete;
  DeviceChecks& operator=(const DeviceChecks&) = delete;

  /// All checks from here on are of this image; its base outlives them.
  void begin(const PlacedRanges& ranges, const std::byte* image);
  /// That the entry has its digest of the manifest.
  Status entry(const PlacedRanges::Whole& whole);
  /// That the image's bytes there are those at `source`, which the device can read.
  Status same(std::uint64_t target, std::uint64_t bytes, const std::byte* source);
  /// Checks what waits. @return kMismatch that names the tensor
  Status finish();

 private:
  struct Check {
    std::uint64_t target = 0;
    const PlacedRanges::Whole* whole = nullptr;  ///< null: two sums that are to be the same
    std::uint32_t sum = 0;
  };
  static constexpr std::size_t kParts = 8192;  ///< and sums, of a batch

  DeviceChecks(std::shared_ptr<driver::Cuda> cuda, int device)
      : cuda_(std::move(cuda)), device_(device) {}
  Status make_room(std::size_t sums);
  std::uint32_t add(const std::byte* data, std::uint64_t bytes);
  Status judge(const Check& check) const;

  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  driver::Stream stream_ = nullptr;
  driver::Event event_ = nullptr;
  std::unique_ptr<driver::DigestJob> job_;
  const PlacedRanges* ranges_ = nullptr;
  const std::byte* image_ = nullptr;
  std::vector<driver::DigestPart> parts_;  ///< one a sum
  std::vector<Check> checks_;
};

}  // namespace weightcast::subscriber
