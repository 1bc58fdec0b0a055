// What a tcp lane holds and has asked for: the state that its owner's thread, its socket's thread
// and its copy threads share.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/waker.hpp"
#include "transport/flight.hpp"
#include "transport/tcp/tcp_transport.hpp"
#include "transport/tcp/wire.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

class TcpSegment;

/// Counters of a transport, which all its lanes add to.
struct SharedCounters {
  std::atomic<std::uint64_t> connected{0}, lost{0}, resent{0}, corrupt{0}, received_bytes{0};
};

/// Whom a segment is asked of.
struct Server {
  std::string endpoint;
  bool is_engine = false;
  bool operator==(const Server&) const = default;
};

inline Server server_of(const SegmentAddress& address) {
  return {address.endpoint, address.from_engine};
}

/// A bucket that has not come yet.
struct OpenBucket {
  Bucket bucket;
  std::shared_ptr<TcpSegment> segment;
  std::string request;  ///< encoded
  std::uint64_t bytes = 0;
  bool asked = false;
  bool asked_before = false;
  std::uint32_t spoiled = 0;       ///< times that it came so
  Clock::time_point not_before{};  ///< where the server had no room for the request
  Clock::time_point asked_at{};
  Clock::time_point opened_at{};
  Duration patience{};
};

/// A version that some segments of this lane stand for.
struct Hold {
  SegmentAddress address;
  std::uint32_t segments = 0;
  bool told = false;  ///< this connection's server has been asked to hold it
  Clock::time_point told_at{};
  std::uint64_t request = 0;  ///< id of the last request to hold
  Status verdict;             ///< not ok: what the server said instead, for good
};

/// Thread safety: any thread; the members below `mutex` only under it.
class LaneBook : public std::enable_shared_from_this<LaneBook> {
 public:
  LaneBook(const TcpOptions& how, std::unique_ptr<Flight> completions)
      : options(how), flight(std::move(completions)) {}

  /// A handle of what the source may be asked for. Tells the thread.
  std::shared_ptr<TcpSegment> hold(const SegmentAddress& address);
  /// The end of such a handle.
  void let_go(std::uint64_t hold) noexcept;

  /// Takes over a bucket that has begun in the flight.
  void open(OpenBucket bucket);
  /// Takes a bucket out, as having come. Empty where nobody waits for it (any more).
  std::optional<OpenBucket> take(std::uint64_t id);
  /// A bucket that came spoiled: asked for again, or ended where that happens all the time.
  void came_spoiled(std::uint64_t id, OpenBucket bucket);
  /// Gives credit back.
  void placed(std::uint64_t bytes) noexcept;

  /// Ends all that is open and will be.
  void abort() noexcept;
  /// Ends with `why` what is open of a hold.
  void end_open(std::uint64_t hold, const Status& why);

  const TcpOptions options;
  const std::unique_ptr<Flight> flight;
  base::Waker waker;  ///< of the socket's thread

  std::mutex mutex;
  std::map<std::uint64_t, OpenBucket> open_buckets;  ///< by request id: oldest first
  std::map<std::uint64_t, Hold> holds;
  std::vector<SegmentAddress> releases;  ///< to be told
  std::uint64_t next_id = 1;             ///< of requests and holds
  std::uint64_t credit_used = 0;         ///< bytes asked for and not placed
  bool aborted = false;

 private:
  void end(OpenBucket bucket, const Status& why);
};

/// A handle; its end is told to the server.
class TcpSegment final : public Segment {
 public:
  TcpSegment(std::weak_ptr<LaneBook> book, std::uint64_t hold, SegmentAddress address)
      : book_(std::move(book)), hold_(hold), address_(std::move(address)) {}
  ~TcpSegment() override {
    if (const auto book = book_.lock()) book->let_go(hold_);
  }
  TcpSegment(const TcpSegment&) = delete;
  TcpSegment& operator=(const TcpSegment&) = delete;

  std::span<std::byte> view() noexcept override { return {}; }
  std::uint64_t hold() const noexcept { return hold_; }
  const SegmentAddress& address() const noexcept { return address_; }
  bool is_of(const LaneBook& book) const noexcept { return book_.lock().get() == &book; }

 private:
  const std::weak_ptr<LaneBook> book_;
  const std::uint64_t hold_;
  const SegmentAddress address_;
};

}  // namespace weightcast::transport
