#include "stream/nccl_steps.hpp"

#include <algorithm>

namespace weightcast::stream {
namespace {

constexpr std::uint64_t kFewBuckets = 16;
constexpr std::uint64_t kLeastBucket = 16 << 10;
constexpr std::uint64_t kPage = 4096;
constexpr std::uint32_t kMostKept = 8;  ///< communicators, on either side

}  // namespace

std::uint64_t nccl_bucket_bytes(std::uint64_t payload_bytes) noexcept {
  const std::uint64_t part = payload_bytes / kFewBuckets / kPage * kPage + kPage;
  return std::clamp(part, kLeastBucket, kMaxNcclBucket);
}

std::uint32_t nccl_buckets(std::uint64_t payload_bytes) noexcept {
  const std::uint64_t bytes = nccl_bucket_bytes(payload_bytes);
  return static_cast<std::uint32_t>(payload_bytes / bytes + (payload_bytes % bytes != 0 ? 1 : 0));
}

std::uint64_t nccl_plan(std::uint64_t payload_bytes) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (std::uint64_t value : {payload_bytes, nccl_bucket_bytes(payload_bytes)}) {
    for (int byte = 0; byte < 8; ++byte, value >>= 8) {
      hash = (hash ^ (value & 0xff)) * 0x100000001b3ULL;
    }
  }
  return hash;
}

std::vector<transport::FlowStep> nccl_steps(std::uint64_t payload_bytes, std::uint32_t first,
                                            int rank, int size) {
  using Kind = transport::FlowStep::Kind;
  const bool is_source = rank == 0;
  const bool is_pair = size == 2;
  const Kind kind = is_source ? (is_pair ? Kind::kSend : Kind::kBroadcastFrom)
                              : (is_pair ? Kind::kReceive : Kind::kBroadcastTo);
  const std::uint64_t bytes = nccl_bucket_bytes(payload_bytes);
  std::vector<transport::FlowStep> steps;
  for (std::uint32_t bucket = first; bucket < nccl_buckets(payload_bytes); ++bucket) {
    const std::uint64_t offset = bucket * bytes;
    steps.push_back({kind, 0, is_source && is_pair ? 1 : 0, bucket,
                     std::min(bytes, payload_bytes - offset)});
  }
  return steps;
}

transport::NcclOptions nccl_options() noexcept {
  transport::NcclOptions options;
  // One has to be free for the next.
  options.max_communicators = kMostKept + 1;
  // Over NVLink a bucket takes 0.4 ms, and what the two ends do about it, a look at the device each
  // time, some 0.15 ms: with so many under way the wire does not wait for that. 512 MiB in all.
  options.buckets = 4;
  options.join = std::chrono::seconds(6);
  options.silence = std::chrono::seconds(3);
  options.leave = std::chrono::seconds(2);
  options.abort = std::chrono::seconds(5);
  return options;
}

transport::SessionOptions nccl_session_options(std::uint32_t ranks, bool is_p2p) noexcept {
  constexpr std::uint32_t kFew = 3;
  constexpr int kSlimBlocks = 8;
  transport::SessionOptions options;
  options.is_p2p = is_p2p;
  options.keep = is_p2p ? kMostKept : kFew;
  options.blocks = is_p2p || ranks > kFew ? kSlimBlocks : 0;
  options.ask_every = std::chrono::milliseconds(2);
  options.fresh = std::chrono::milliseconds(60);
  options.give_up = std::chrono::seconds(3);
  return options;
}

}  // namespace weightcast::stream
