// Requests for buckets and their replies as bytes (proto/data.proto), and the check of everything
// that comes from a peer.
//
// A request is one frame. A reply is one frame, and where it is good news for a bucket, a second
// one with the bucket's bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/digest.hpp"
#include "transport/nccl/session.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Of both messages; what has another one is refused.
inline constexpr std::uint32_t kDataFormat = 1;

/// Limits of what is believed of a peer.
inline constexpr std::size_t kMaxRequestBytes = std::size_t{512} << 10;
inline constexpr std::size_t kMaxReplyBytes = 4096;  ///< without the payload
inline constexpr std::size_t kMaxStrips = 8192;      ///< of one request
inline constexpr std::uint64_t kMaxBucketBytes = std::uint64_t{64} << 20;
inline constexpr std::size_t kMaxObjectBytes = 255;
inline constexpr std::size_t kMaxNameBytes = 255;  ///< of who asks for a session, and of its device
inline constexpr int kMaxRanks = 65536;            ///< of a communicator

enum class RequestKind { kHold = 1, kBucket = 2, kRelease = 3, kSession = 4 };

/// Names its segment each time, so that a server that knows nothing yet can answer it.
struct DataRequest {
  std::uint64_t id = 0;  ///< the reply's; chosen by who asks
  RequestKind kind = RequestKind::kHold;
  SegmentAddress segment;    ///< without endpoint and from_engine, which are not sent
  std::uint64_t offset = 0;  ///< of a bucket without strips
  std::uint64_t bytes = 0;   ///< of the bucket, strips or not
  std::vector<Strip> strips{};
  bool want_digest = false;
  SessionAsk session{};  ///< of kSession; its version and generation are the segment's
};

struct DataReply {
  std::uint64_t id = 0;
  Status status;
  std::uint64_t bytes = 0;               ///< of the payload that follows; 0: none does
  std::optional<base::Digest> digest{};  ///< of those bytes, the first one being byte 0
  std::optional<SessionAnswer> session{};  ///< to kSession; its status is this one's
};

/// Texts longer than a reply has room for are cut. Thread safety: pure, as all here.
std::string encode(const DataRequest& request);
std::string encode(const DataReply& reply);

/// A request that comes out is safe to act on: its runs lie inside the payload that it names, their
/// sum is `bytes` and at most kMaxBucketBytes, the object's name has no control characters.
/// @return kMismatch for another format, kInvalid for anything else that is wrong
Result<DataRequest> decode_request(std::span<const std::byte> bytes);

/// @return as above
Result<DataReply> decode_reply(std::span<const std::byte> bytes);

}  // namespace weightcast::transport
