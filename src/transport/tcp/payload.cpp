#include "transport/tcp/payload.hpp"

#include <cstring>
#include <utility>

#include "codec/digest.hpp"
#include "transport/bucket_runs.hpp"

namespace weightcast::transport {
namespace {

/// What a message's bytes depend on. Goes on a thread of ZeroMQ's.
struct Cargo {
  std::shared_ptr<Segment> segment;
  std::shared_ptr<UnderWay> under_way;
  std::shared_ptr<Departures> departures;
  std::unique_ptr<std::byte[]> gathered;
  std::uint64_t gathered_bytes = 0;
  std::uint64_t bytes = 0;
  /// ZeroMQ's queues order the threads; this says so to tools that do not see into it.
  std::atomic<bool> complete{false};

  void count() const noexcept {
    under_way->bytes += bytes;
    ++under_way->replies;
    departures->gathered += gathered_bytes;
    ++departures->replies;
  }
  ~Cargo() {
    static_cast<void>(complete.load(std::memory_order_acquire));
    gathered.reset();
    segment.reset();
    under_way->bytes -= bytes;
    --under_way->replies;
    departures->gathered -= gathered_bytes;
    --departures->replies;
    if (departures->wanted.exchange(false)) departures->waker.wake();
  }
};

void drop_cargo(void*, void* cargo) { delete static_cast<Cargo*>(cargo); }

}  // namespace

bool is_gathered(const DataRequest& request) noexcept {
  if (request.strips.empty()) return false;
  const Strip& first = request.strips.front();
  return request.strips.size() > 1 || (first.count > 1 && first.stride != first.bytes);
}

zmq::message_t make_payload(const Ask& ask, std::shared_ptr<UnderWay> under_way,
                            std::shared_ptr<Departures> departures, bool spoil,
                            std::optional<base::Digest>& digest) {
  const DataRequest& request = ask.request;
  const std::span<const std::byte> all = ask.segment->view().first(request.segment.payload_bytes);
  const std::uint64_t offset =
      request.strips.empty() ? request.offset : request.strips.front().offset;
  auto cargo = std::make_unique<Cargo>();
  cargo->segment = ask.segment;
  cargo->bytes = request.bytes;
  cargo->under_way = std::move(under_way);
  cargo->departures = std::move(departures);
  const std::byte* data = all.data() + offset;
  if (is_gathered(request) || spoil) {
    cargo->gathered = std::make_unique_for_overwrite<std::byte[]>(request.bytes);
    cargo->gathered_bytes = request.bytes;
    each_piece(all, offset, request.bytes, request.strips, request.bytes,
               [to = cargo->gathered.get()](std::size_t at, std::span<const std::byte> piece) {
                 std::memcpy(to + at, piece.data(), piece.size());
                 return true;
               });
    data = cargo->gathered.get();
  }
  cargo->count();
  if (request.want_digest) digest = codec::digest(data, request.bytes, 0);
  if (spoil) cargo->gathered[request.bytes / 2] ^= std::byte{0x10};
  cargo->complete.store(true, std::memory_order_release);
  // ZeroMQ only reads what it sends.
  zmq::message_t message(const_cast<std::byte*>(data), request.bytes, drop_cargo, cargo.get());
  static_cast<void>(cargo.release());
  return message;
}

}  // namespace weightcast::transport
