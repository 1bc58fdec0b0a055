// The seam between the streams and what carries bytes. One folder a transport, one contract suite
// for all (tests/contract/transport_contract.hpp).
//
// A lane joins one receiver to one source for as long as both live. For each version the receiver
// acquires that source's segment, moves buckets out of it (or looks at it in place, where the
// transport can), and lets it go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/types.hpp>

namespace weightcast::transport {

/// Where a share of a version lies, and who can be asked for it.
struct SegmentAddress {
  std::string object;  ///< name of the source's shared-memory object
  Version version;
  std::uint64_t generation = 0;
  std::uint64_t payload_bytes = 0;
  std::string endpoint{};    ///< "tcp://host:port" of who serves it to other hosts; may be empty
  bool from_engine = false;  ///< that is an engine which serves this version, not its source
  std::string device{};          ///< as in plan::Share, as are the next two
  std::string device_memory{};
  std::uint64_t device_offset = 0;
};

/// `count` runs of `bytes` bytes each, the next one `stride` bytes after the former's beginning.
struct Strip {
  std::uint64_t offset = 0;  ///< of the first run, from the start of the segment's payload
  std::uint64_t bytes = 0;
  std::uint64_t count = 1;
  std::uint64_t stride = 0;
  bool operator==(const Strip&) const = default;
};

/// Bytes that move as one unit: either destination.size() bytes at `offset`, or, where `strips` is
/// not empty, those runs one after the other.
struct Bucket {
  std::uint64_t id = 0;
  std::uint64_t offset = 0;          ///< from the start of the segment's payload
  std::span<std::byte> destination;  ///< with strips and place(), may be empty
  /// Copies `source` to where the bucket's bytes [at, at + source.size()) belong, and may verify
  /// what it placed while that is still in cache. Called from one thread at a time for consecutive
  /// pieces of the bucket; without strips each but the last is a multiple of 4096 bytes. Empty: a
  /// plain copy to destination.subspan(at, source.size()). Must not throw. A bucket that came
  /// spoiled is asked for again before any of it is placed, so each byte is placed once.
  std::function<void(std::size_t at, std::span<const std::byte> source)> place;
  std::vector<Strip> strips{};
  /// The receiver checks these bytes itself when all are there (digests of whole tensors), so that
  /// a transport that authenticates what comes may do without a digest of the bucket.
  bool checked_later = false;

  std::uint64_t bytes() const noexcept {
    if (strips.empty()) return destination.size();
    std::uint64_t sum = 0;
    for (const Strip& strip : strips) sum += strip.bytes * strip.count;
    return sum;
  }
};

/// The one terminal report of a submitted bucket. Until it comes the destination is in use.
struct Completion {
  std::uint64_t id = 0;
  Status status;
};

/// A version's bytes, held still: as long as the segment lives the source does not overwrite them.
/// May outlive the lane that it came from; where view() shows nothing, it holds nothing then.
class Segment {
 public:
  virtual ~Segment() = default;
  /// The payload in place, where the transport can show it without a copy; else empty. Writes by
  /// the holder stay private to this process.
  virtual std::span<std::byte> view() noexcept = 0;
  /// As view(), where devices copy from there at full speed (registered memory); else empty.
  virtual std::span<const std::byte> registered_view() noexcept { return {}; }
  /// The payload in a device's memory, mapped here; else empty. Not to be written to.
  virtual std::span<const std::byte> device_view() noexcept { return {}; }
};

/// A version's bytes while their source still writes them. Nothing is held: what was read counts only
/// if the same object and generation is acquired later.
class Draft {
 public:
  virtual ~Draft() = default;
  /// Bytes from the payload's start that are final; nothing where another generation is there by now.
  virtual std::optional<std::uint64_t> written() noexcept = 0;
  /// As Segment's, of address.payload_bytes bytes; never empty.
  virtual std::span<const std::byte> registered_view() noexcept = 0;
};

/// What a process lets others read: a trainer's sealed slots, an engine's image.
class SegmentStore {
 public:
  virtual ~SegmentStore() = default;
  /// Takes hold of a version's share, whose bytes Segment::view() then shows. Does not wait.
  /// @return kStale, kNotFound as Lane::acquire. Thread safety: any thread
  virtual Result<std::shared_ptr<Segment>> hold(const SegmentAddress& address) = 0;
};

/// Thread safety: one thread calls submit, poll, acquire, close and abort.
class Lane {
 public:
  virtual ~Lane() = default;

  /// Takes hold of a version. Does not wait: a transport that has to ask a peer says by the first
  /// completion what the peer said.
  /// @return kStale where the source has moved on, kNotFound where it is gone
  virtual Result<std::shared_ptr<Segment>> acquire(const SegmentAddress& address) = 0;

  /// Looks at a version that is being written, without holding it; the version itself need not be
  /// told. Does not wait. @return kUnavailable where this transport or memory does not show it
  virtual Result<std::shared_ptr<Draft>> follow(const SegmentAddress& /*address*/) {
    return Status(Code::kUnavailable, "this transport shows nothing that is being written");
  }

  /// Starts to move a bucket. Ok means that exactly one completion with its id will follow.
  /// @return kInvalid for a range outside the segment, kExhausted where no more may be in flight
  virtual Status submit(const std::shared_ptr<Segment>& segment, Bucket bucket) = 0;

  /// Takes finished completions without waiting. @return how many were written to `out`
  virtual std::size_t poll(std::span<Completion> out) = 0;

  /// Becomes readable (poll(2)) whenever completions may be there to take.
  virtual int event_fd() const noexcept = 0;

  /// Waits for what is in flight, reports it through poll, and refuses new buckets.
  /// @return kDeadline where something is still in flight; abort() remains
  virtual Status close(Deadline deadline) = 0;

  /// Gives up what has not begun: its completions are kCancelled. Never waits for a peer.
  virtual void abort() noexcept = 0;
};

enum class Reach { kHost, kNetwork };

struct LaneOptions {
  std::uint32_t copy_threads = 1;
  std::uint32_t max_in_flight = 64;  ///< buckets
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual std::string_view name() const noexcept = 0;
  /// Whether it can work on this machine now; the message says what is missing.
  virtual Status viable() const = 0;
  virtual Reach reach() const noexcept = 0;
  virtual Result<std::unique_ptr<Lane>> open_lane(const LaneOptions& options) = 0;
};

}  // namespace weightcast::transport
