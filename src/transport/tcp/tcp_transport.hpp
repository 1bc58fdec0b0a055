// Bytes over TCP, by ZeroMQ: the receiver asks a TcpServer for buckets.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "keys/key_ring.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// Which buckets come with a digest, which is checked before anything of them is placed; one that
/// came spoiled is asked for again. It takes a pass over the bytes on either side: over loopback on
/// two cores a fifth to a quarter of the rate without encryption, 6 to 20% of it with
/// (bench/tcp_bench.cpp).
enum class BucketDigests {
  kNever,        ///< for benchmarks
  kWhereNeeded,  ///< those that nothing else covers: without encryption all, with it (what comes is
                 ///< authentic then, or the connection breaks and the bucket is asked for again)
                 ///< those whose receiver does not check them later (Bucket::checked_later)
  kAlways
};

struct TcpOptions {
  /// Keys of this process; which server key is expected follows from SegmentAddress::from_engine.
  /// Null: no encryption, for benchmarks and tests of this folder alone; no public option leads
  /// here.
  std::shared_ptr<const keys::KeyRing> keys{};
  std::uint64_t credit_bytes = std::uint64_t{16} << 20;  ///< a lane: asked for and not placed yet
  BucketDigests bucket_digests = BucketDigests::kWhereNeeded;
  Duration retry_after = std::chrono::seconds(1);  ///< without any answer; doubles with each time
  Duration retry_most = std::chrono::seconds(5);
  Duration give_up_after = std::chrono::seconds(30);  ///< without any answer: kUnavailable
  Duration hold_every = std::chrono::milliseconds(250);  ///< says that it still holds; below the server's
                                                  ///< limit of silence
  int io_threads = 1;                             ///< of ZeroMQ, for all lanes
  int socket_buffer_bytes = 0;  ///< a connection, in the kernel; 0: as the system sizes it
};

/// Of all lanes of a transport, since it was made.
struct TcpCounters {
  std::uint64_t connected = 0;  ///< handshakes that succeeded
  std::uint64_t lost = 0;       ///< connections that broke
  std::uint64_t resent = 0;     ///< requests asked again, for whatever reason
  std::uint64_t corrupt = 0;    ///< buckets that came spoiled
  std::uint64_t received_bytes = 0;
};

/// Lanes of it show nothing in place (Segment::view() is empty), and a segment that outlives its
/// lane holds nothing any more. acquire() asks the server to hold the version and does not wait;
/// what the server says instead (kStale, kNotFound, kDenied) comes as the completion of every
/// bucket of it. A bucket has at most kMaxBucketBytes bytes and kMaxStrips strips (tcp/wire.hpp).
///
/// A connection that breaks comes back by itself, and what was asked for and has not come is asked
/// for again; kUnavailable after give_up_after without an answer. A version is held at the server
/// meanwhile (TcpServerLimits::silence).
///
/// A lane has a thread for its socket, and copy_threads that verify and place. Its destructor waits
/// for the piece that each is placing, not for a peer. The transport outlives its lanes.
/// Thread safety: the transport's own calls may come from any thread.
class TcpTransport final : public Transport {
 public:
  explicit TcpTransport(const TcpOptions& options);
  ~TcpTransport() override;
  std::string_view name() const noexcept override { return "tcp"; }
  /// kUnavailable where ZeroMQ has no CURVE and keys are given.
  Status viable() const override;
  Reach reach() const noexcept override { return Reach::kNetwork; }
  /// @return kInvalid as ShmTransport's, kExhausted where there is no thread or descriptor
  Result<std::unique_ptr<Lane>> open_lane(const LaneOptions& options) override;
  TcpCounters counters() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weightcast::transport
