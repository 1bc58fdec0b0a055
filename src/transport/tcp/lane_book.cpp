#include "transport/tcp/lane_book.hpp"

#include <utility>

namespace weightcast::transport {
namespace {

/// A bucket that comes spoiled again and again is not the network's doing.
constexpr std::uint32_t kMaxSpoiled = 8;

bool same(const SegmentAddress& x, const SegmentAddress& y) {
  return x.object == y.object && x.version == y.version && x.generation == y.generation &&
         x.payload_bytes == y.payload_bytes && x.endpoint == y.endpoint &&
         x.from_engine == y.from_engine;
}

bool wants_digest(const TcpOptions& options, const Bucket& bucket) {
  if (options.bucket_digests != BucketDigests::kWhereNeeded) {
    return options.bucket_digests == BucketDigests::kAlways;
  }
  return !options.keys || !bucket.checked_later;
}

Status cancelled() {
  return Status(Code::kCancelled, "the lane was aborted before this bucket came");
}

}  // namespace

std::shared_ptr<TcpSegment> LaneBook::hold(const SegmentAddress& address) {
  std::uint64_t number = 0;
  {
    const std::lock_guard guard(mutex);
    for (auto& [id, hold] : holds) {
      if (same(hold.address, address)) number = id;
    }
    if (number == 0) {
      number = next_id++;
      holds[number].address = address;
    }
    ++holds[number].segments;
  }
  waker.wake();
  return std::make_shared<TcpSegment>(weak_from_this(), number, address);
}

void LaneBook::let_go(std::uint64_t number) noexcept {
  const std::lock_guard guard(mutex);
  const auto hold = holds.find(number);
  if (hold == holds.end() || --hold->second.segments > 0) return;
  if (hold->second.told) releases.push_back(hold->second.address);
  holds.erase(hold);
  waker.wake();
}

void LaneBook::open(OpenBucket bucket) {
  {
    std::unique_lock lock(mutex);
    const auto hold = holds.find(bucket.segment->hold());
    if (!aborted && hold->second.verdict) {
      bucket.opened_at = Clock::now();
      bucket.patience = options.retry_after;
      const std::uint64_t id = next_id++;
      const SegmentAddress& from = hold->second.address;
      bucket.request = encode(DataRequest{.id = id,
                                          .kind = RequestKind::kBucket,
                                          .segment = from,
                                          .offset = bucket.bucket.offset,
                                          .bytes = bucket.bytes,
                                          .strips = std::exchange(bucket.bucket.strips, {}),
                                          .want_digest = wants_digest(options, bucket.bucket)});
      open_buckets.emplace(id, std::move(bucket));
    } else {
      const Status why = aborted ? cancelled() : hold->second.verdict;
      lock.unlock();
      return end(std::move(bucket), why);
    }
  }
  waker.wake();
}

std::optional<OpenBucket> LaneBook::take(std::uint64_t id) {
  const std::lock_guard guard(mutex);
  const auto found = open_buckets.find(id);
  if (found == open_buckets.end()) return std::nullopt;
  // The answer to an earlier request for the same bucket is as good.
  if (!found->second.asked) credit_used += found->second.bytes;
  OpenBucket bucket = std::move(found->second);
  open_buckets.erase(found);
  return bucket;
}

void LaneBook::came_spoiled(std::uint64_t id, OpenBucket bucket) {
  std::unique_lock lock(mutex);
  if (aborted || ++bucket.spoiled >= kMaxSpoiled) {
    const Status why =
        aborted ? cancelled()
                : Status(Code::kMismatch, "bucket " + std::to_string(bucket.bucket.id) + " came " +
                                              std::to_string(bucket.spoiled) +
                                              " times with another digest than its server says; "
                                              "look for broken memory there, or here");
    lock.unlock();
    return end(std::move(bucket), why);
  }
  bucket.asked = false;
  open_buckets.emplace(id, std::move(bucket));
  lock.unlock();
  waker.wake();
}

void LaneBook::placed(std::uint64_t bytes) noexcept {
  bool waits = false;
  {
    const std::lock_guard guard(mutex);
    credit_used -= bytes;
    waits = !open_buckets.empty();
  }
  if (waits) waker.wake();
}

void LaneBook::abort() noexcept {
  std::map<std::uint64_t, OpenBucket> given_up;
  {
    const std::lock_guard guard(mutex);
    aborted = true;
    given_up.swap(open_buckets);
    for (const auto& [id, bucket] : given_up) {
      if (bucket.asked) credit_used -= bucket.bytes;
    }
  }
  for (auto& [id, bucket] : given_up) end(std::move(bucket), cancelled());
}

void LaneBook::end_open(std::uint64_t number, const Status& why) {
  std::vector<OpenBucket> ended;
  {
    const std::lock_guard guard(mutex);
    for (auto at = open_buckets.begin(); at != open_buckets.end();) {
      if (at->second.segment->hold() != number) {
        ++at;
        continue;
      }
      if (at->second.asked) credit_used -= at->second.bytes;
      ended.push_back(std::move(at->second));
      at = open_buckets.erase(at);
    }
  }
  for (OpenBucket& bucket : ended) end(std::move(bucket), why);
}

/// Never under the mutex: with the segment ends a hold.
void LaneBook::end(OpenBucket bucket, const Status& why) {
  const std::uint64_t id = bucket.bucket.id;
  {
    const OpenBucket gone = std::move(bucket);  // before anybody hears of it
  }
  flight->end({id, why});
}

}  // namespace weightcast::transport
