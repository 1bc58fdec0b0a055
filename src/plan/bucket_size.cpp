#include <algorithm>
#include <cmath>
#include <cstdio>

#include "plan/image_plan.hpp"

namespace weightcast::plan {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kLeast = 64 << 10;    // below it requests cost more than bytes
constexpr std::uint64_t kUsual = 8 << 20;     // where nothing is known of the link
constexpr std::uint64_t kMost = 64ull << 20;  // beyond it nothing is gained (measured to 512 MiB)
constexpr double kRoundTrips = 8;             // that a bucket's bytes take on the link, at least
constexpr std::uint64_t kRounds = 4;          // times that all buckets under way make a version

std::string in_words(double bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < std::size(units); ++unit) bytes /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.3g %s", bytes, units[unit]);
  return text;
}

std::string in_words(std::uint64_t bytes) { return in_words(static_cast<double>(bytes)); }

std::uint64_t whole_pages(std::uint64_t bytes) {
  return bytes < kPage ? bytes : bytes / kPage * kPage;
}

}  // namespace

BucketSize size_buckets(const BucketNeeds& needs) {
  const std::uint64_t under_way = std::max<std::uint32_t>(1, needs.under_way);
  BucketSize size;

  // What the link can bring in a round trip; infinite or not a number counts as unknown.
  const double in_flight = needs.bytes_per_second * needs.round_trip_seconds;
  const bool is_measured =
      needs.bytes_per_second > 0 && needs.round_trip_seconds > 0 && std::isfinite(in_flight);
  std::uint64_t floor = kLeast;
  if (is_measured) {
    const double outweighs = std::min(kRoundTrips * in_flight, static_cast<double>(kMost));
    size.bytes = std::clamp(static_cast<std::uint64_t>(outweighs), kLeast, kMost);
    floor = std::clamp(static_cast<std::uint64_t>(std::min(in_flight, outweighs)), kLeast, kMost);
    char trips[96];
    std::snprintf(trips, sizeof trips, "round trips of %.3g ms at %s/s",
                  1e3 * needs.round_trip_seconds, in_words(needs.bytes_per_second).c_str());
    if (size.bytes == kLeast) {
      size.reason = std::string("the least that pays; ") + trips + " ask for less";
    } else if (size.bytes == kMost) {
      size.reason = std::string("the most that gains; ") + trips + " ask for more";
    } else {
      size.reason = "takes as long as 8 " + std::string(trips);
    }
  } else {
    size.bytes = kUsual;
    size.reason = "the usual size; the link has not been measured";
  }

  if (needs.wanted_bytes > 0) {
    const std::uint64_t buckets = kRounds * under_way;
    const std::uint64_t overlap = needs.wanted_bytes / buckets;
    if (overlap < size.bytes && floor < size.bytes) {
      size.bytes = std::max(overlap, floor);
      size.reason =
          overlap >= floor
              ? "makes " + std::to_string(buckets) + " buckets of " + in_words(needs.wanted_bytes) +
                    ", so that " + std::to_string(under_way) + " at a time overlap"
          : floor == kLeast
              ? "the least that pays, for a version of only " + in_words(needs.wanted_bytes)
              : "outweighs one round trip, for a version of only " + in_words(needs.wanted_bytes);
    }
  }

  if (needs.budget_bytes > 0 && needs.budget_bytes / under_way < size.bytes) {
    size.bytes = std::max<std::uint64_t>(1, needs.budget_bytes / under_way);
    size.reason = "the budget of " + in_words(needs.budget_bytes) + " holds " +
                  std::to_string(under_way) + " of it at once";
  }

  size.bytes = whole_pages(size.bytes);
  size.reason = in_words(size.bytes) + ": " + size.reason;
  return size;
}

}  // namespace weightcast::plan
