#include "transport/nccl/sender.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "transport/bucket_runs.hpp"

namespace weightcast::transport {

NcclSender::NcclSender(const NcclGpu& gpu, std::vector<NcclPayload> payloads,
                       std::vector<NcclBucketBytes> buckets,
                       std::function<void(std::uint32_t)> sent)
    : gpu_(gpu),
      payloads_(std::move(payloads)),
      buckets_(std::move(buckets)),
      sent_(std::move(sent)) {
  std::size_t most = 1;
  for (const NcclBucketBytes& bucket : buckets_) {
    std::size_t runs = 0;
    for (const Strip& strip : bucket.strips) runs += strip.count;
    most = std::max(most, runs);
  }
  items_.reserve(most);
}

Result<std::unique_ptr<NcclSender>> NcclSender::make(
    const NcclGpu& gpu, std::vector<NcclPayload> payloads, std::vector<NcclBucketBytes> buckets,
    std::function<void(std::uint32_t)> sent) {
  for (const NcclBucketBytes& bucket : buckets) {
    const std::string who = "a bucket of payload " + std::to_string(bucket.payload);
    if (bucket.payload >= payloads.size()) {
      return Status(Code::kInvalid, who + ", of which there are " + std::to_string(payloads.size()));
    }
    const std::uint64_t all = payloads[bucket.payload].bytes.size();
    if (bucket.strips.empty()) {
      if (bucket.offset > all || bucket.bytes > all - bucket.offset) {
        return Status(Code::kInvalid, who + " reaches to byte " +
                                          std::to_string(bucket.offset) + " + " +
                                          std::to_string(bucket.bytes) + ", it has " +
                                          std::to_string(all));
      }
      continue;
    }
    auto sum = check_strips(bucket.strips, all);
    if (!sum) return sum.status();
    if (*sum != bucket.bytes) {
      return Status(Code::kInvalid, who + " has runs of " + std::to_string(*sum) +
                                        " bytes, expected " + std::to_string(bucket.bytes));
    }
  }
  return std::unique_ptr<NcclSender>(
      new NcclSender(gpu, std::move(payloads), std::move(buckets), std::move(sent)));
}

Status NcclSender::load(const FlowStep& step, std::byte* buffer, driver::Stream stream) {
  if (step.bucket >= buckets_.size() || buckets_[step.bucket].bytes != step.bytes) {
    return {Code::kInvalid, "a step of bucket " + std::to_string(step.bucket) + " with " +
                                std::to_string(step.bytes) + " bytes, which is not there"};
  }
  const NcclBucketBytes& bucket = buckets_[step.bucket];
  const NcclPayload& payload = payloads_[bucket.payload];
  items_.clear();
  each_piece(payload.bytes, bucket.offset, bucket.bytes, bucket.strips, bucket.bytes,
             [&](std::size_t at, std::span<const std::byte> piece) {
               items_.push_back({buffer + at, piece.data(), piece.size()});
               return true;
             });
  return gpu_.cuda().copy(gpu_.device(), items_, stream);
}

Status NcclSender::place(const FlowStep& step, std::span<const std::byte>, driver::Stream) {
  return {Code::kInvalid, "bucket " + std::to_string(step.bucket) + " came to who sends"};
}

void NcclSender::done(const FlowStep& step) {
  if (sent_ && step.kind != FlowStep::Kind::kPass) sent_(step.bucket);
}

}  // namespace weightcast::transport
