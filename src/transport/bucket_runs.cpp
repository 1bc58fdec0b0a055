#include "transport/bucket_runs.hpp"

#include <string>

namespace weightcast::transport {
namespace {

Status outside(const std::string& what, std::uint64_t payload_bytes) {
  return Status(Code::kInvalid,
                what + ", but the segment has only " + std::to_string(payload_bytes));
}

}  // namespace

Result<std::uint64_t> check_strips(std::span<const Strip> strips, std::uint64_t payload_bytes) {
  std::uint64_t sum = 0;
  for (const Strip& strip : strips) {
    if (strip.bytes == 0 || strip.count == 0 || (strip.count > 1 && strip.stride < strip.bytes)) {
      return Status(Code::kInvalid,
                    "expected strips of one run or more, each of a byte or more, that do not "
                    "overlap; got " +
                        std::to_string(strip.count) + " runs of " + std::to_string(strip.bytes) +
                        " bytes, each " + std::to_string(strip.stride) + " after the former");
    }
    std::uint64_t last = 0;  // where the last run begins
    std::uint64_t end = 0;
    std::uint64_t bytes = 0;
    if (__builtin_mul_overflow(strip.count - 1, strip.stride, &last) ||
        __builtin_add_overflow(last, strip.offset, &last) ||
        __builtin_add_overflow(last, strip.bytes, &end) || end > payload_bytes) {
      return outside("a strip asks for " + std::to_string(strip.count) + " runs of " +
                         std::to_string(strip.bytes) + " bytes from " +
                         std::to_string(strip.offset) + " on, " + std::to_string(strip.stride) +
                         " apart",
                     payload_bytes);
    }
    if (__builtin_mul_overflow(strip.bytes, strip.count, &bytes) ||
        __builtin_add_overflow(sum, bytes, &sum)) {
      return Status(Code::kInvalid, "the strips' bytes together do not fit 64 bits");
    }
  }
  return sum;
}

Status check_bucket(const Bucket& bucket, std::uint64_t payload_bytes) {
  const std::string name = "bucket " + std::to_string(bucket.id);
  const std::uint64_t room = bucket.destination.size();
  if (bucket.strips.empty()) {
    if (bucket.offset > payload_bytes || room > payload_bytes - bucket.offset) {
      return outside(
          name + " asks for " + std::to_string(room) + " bytes at " + std::to_string(bucket.offset),
          payload_bytes);
    }
    return Status::ok();
  }
  const auto bytes = check_strips(bucket.strips, payload_bytes);
  if (!bytes) return Status(Code::kInvalid, name + ": " + bytes.status().message());
  if (!bucket.place && *bytes != room) {
    return Status(Code::kInvalid, name + " has strips of " + std::to_string(*bytes) +
                                      " bytes, but a destination of " + std::to_string(room) +
                                      "; without place() they must be the same");
  }
  return Status::ok();
}

}  // namespace weightcast::transport
