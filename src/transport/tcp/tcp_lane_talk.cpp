// What a lane's thread says to servers, and what it makes of their answers.
#include <algorithm>
#include <utility>

#include "base/trace.hpp"
#include "codec/digest.hpp"
#include "transport/tcp/tcp_lane.hpp"

namespace weightcast::transport {
namespace {

constexpr auto kNoRoom = std::chrono::milliseconds(50);
constexpr int kRepliesATurn = 64;
/// Requests without an answer at once: below TcpServerLimits::requests_a_peer, which would refuse
/// more.
constexpr std::ptrdiff_t kMostAsked = 64;

/// What came for a bucket, until it is placed.
struct Received {
  zmq::message_t payload;
  std::shared_ptr<LaneBook> book;
  OpenBucket open;
  std::uint64_t bytes = 0;

  ~Received() {
    payload.rebuild();
    open = OpenBucket{};
    book->placed(bytes);
  }
};

}  // namespace

void TcpLane::take_replies(Link& link, Clock::time_point now) {
  if (!link.connection) return;
  for (int i = 0; i < kRepliesATurn; ++i) {
    auto reply = link.connection->receive();
    if (!reply) return;
    link.heard = now;
    take(link, std::move(*reply), now);
  }
  book_->waker.wake();  // perhaps there are more
}

void TcpLane::take(Link& link, Connection::Reply reply, Clock::time_point now) {
  const std::uint64_t id = reply.header.id;
  if (!reply.header.status) return take_bad_news(id, reply.header.status, now);
  auto open = book_->take(id);
  if (!open) return;  // said to a hold, or come before
  // One after the other by this connection: while it brings one the next one waits.
  base::trace_span("wire", "tcp", std::max(open->asked_at, link.progress), now,
                   {.version = open->segment->address().version.number,
                    .bucket = static_cast<std::int64_t>(open->bucket.id),
                    .bytes = static_cast<std::int64_t>(reply.header.bytes)});
  link.progress = now;
  if (reply.header.bytes != open->bytes) {
    ++counters_.corrupt;
    book_->placed(open->bytes);
    return book_->came_spoiled(id, std::move(*open));
  }
  counters_.received_bytes += reply.header.bytes;
  place(id, std::move(*open), std::move(reply));
}

void TcpLane::take_bad_news(std::uint64_t id, const Status& what, Clock::time_point now) {
  const bool of_version =
      what.code() == Code::kStale || what.code() == Code::kNotFound || what.code() == Code::kDenied;
  const bool for_good =
      of_version || what.code() == Code::kInvalid || what.code() == Code::kMismatch;
  std::uint64_t hold = 0;
  {
    const std::lock_guard guard(book_->mutex);
    const auto open = book_->open_buckets.find(id);
    if (open != book_->open_buckets.end()) hold = open->second.segment->hold();
    for (const auto& [number, held] : book_->holds) {
      if (held.request == id) hold = number;
    }
    const auto held = book_->holds.find(hold);
    if (held == book_->holds.end()) return;
    if (for_good) {
      if (of_version || open == book_->open_buckets.end()) {
        held->second.verdict = what;
        held->second.told = false;
      }
    } else if (open != book_->open_buckets.end()) {
      // No room there at present.
      if (open->second.asked) book_->credit_used -= open->second.bytes;
      open->second.asked = false;
      open->second.not_before = now + kNoRoom;
    }
  }
  if (!for_good) return;
  if (of_version) return book_->end_open(hold, what);
  if (auto open = book_->take(id)) {
    const std::uint64_t bucket = open->bucket.id;
    book_->placed(open->bytes);
    open.reset();
    book_->flight->end({bucket, what});
  }
}

void TcpLane::place(std::uint64_t id, OpenBucket open, Connection::Reply reply) {
  auto received = std::make_shared<Received>();
  received->payload = std::move(reply.payload);
  received->book = book_;
  received->bytes = open.bytes;
  received->open = std::move(open);
  CopyPool::Job job;
  job.payload = {received->payload.data<const std::byte>(), received->payload.size()};
  job.bytes = received->payload.size();
  job.bucket = std::move(received->open.bucket);
  job.version = received->open.segment->address().version.number;
  if (reply.header.digest) {
    job.admit = [this, id, digest = *reply.header.digest](CopyPool::Job& it) {
      const base::TraceScope span("verify", "digest of bucket",
                                  {.version = it.version,
                                   .bucket = static_cast<std::int64_t>(it.bucket.id),
                                   .bytes = static_cast<std::int64_t>(it.bytes)});
      if (codec::digest(it.payload.data(), it.payload.size(), 0) == digest) return true;
      ++counters_.corrupt;
      auto* const back = static_cast<Received*>(it.held.get());
      OpenBucket again = std::move(back->open);
      again.bucket = std::move(it.bucket);
      book_->came_spoiled(id, std::move(again));
      return false;
    };
  }
  job.held = std::move(received);
  pool_.put(std::move(job));
}

/// Says what this lane holds, and what no more.
void TcpLane::tell(Clock::time_point now) {
  const std::lock_guard guard(book_->mutex);
  for (const SegmentAddress& address : std::exchange(book_->releases, {})) {
    Link& link = link_to(address);
    // Unsaid, the server finds out by the silence.
    if (!link.connection) continue;
    link.connection->send(
        encode(DataRequest{.id = 0, .kind = RequestKind::kRelease, .segment = address}));
  }
  for (auto& [id, hold] : book_->holds) {
    if (!hold.verdict) continue;
    if (hold.told && now - hold.told_at < book_->options.hold_every) continue;
    Link& link = link_to(hold.address);
    if (!open(link)) continue;
    const std::uint64_t request = book_->next_id++;
    const bool sent = link.connection->send(
        encode(DataRequest{.id = request, .kind = RequestKind::kHold, .segment = hold.address}));
    if (!sent) {
      link.blocked = true;
      continue;
    }
    hold.told = true;
    hold.told_at = now;
    hold.request = request;
  }
}

/// Asks for as many buckets as the credit allows, oldest first.
void TcpLane::ask(Clock::time_point now) {
  const std::lock_guard guard(book_->mutex);
  auto room = kMostAsked - std::count_if(book_->open_buckets.begin(), book_->open_buckets.end(),
                                         [](const auto& entry) { return entry.second.asked; });
  for (auto& [id, open] : book_->open_buckets) {
    if (room <= 0) return;
    if (open.asked || now < open.not_before) continue;
    if (book_->credit_used > 0 && book_->credit_used + open.bytes > book_->options.credit_bytes) {
      return;
    }
    const auto hold = book_->holds.find(open.segment->hold());
    if (!hold->second.told) continue;
    Link& link = link_to(hold->second.address);
    if (!link.connection) continue;
    if (!link.connection->send(open.request)) {
      link.blocked = true;
      continue;
    }
    link.blocked = false;
    if (std::exchange(open.asked_before, true)) ++counters_.resent;
    open.asked = true;
    --room;
    open.asked_at = now;
    book_->credit_used += open.bytes;
  }
}

}  // namespace weightcast::transport
