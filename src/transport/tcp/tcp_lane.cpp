#include "transport/tcp/tcp_lane.hpp"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/signal_mask.hpp"
#include "transport/bucket_runs.hpp"
#include "transport/tcp/sockets.hpp"

namespace weightcast::transport {
namespace {

constexpr auto kLook = std::chrono::milliseconds(20);       // where a timer may be due
constexpr auto kIdleLook = std::chrono::milliseconds(200);  // where only holds are
/// A link that is not up is begun anew after this, then after twice this, ...: ZeroMQ gives up
/// after some failures, and says so of none. A handshake has that long.
constexpr Duration kFirstReopen = std::chrono::milliseconds(500);
constexpr Duration kMostReopen = std::chrono::seconds(4);
/// A connection that stands and says nothing at all is begun anew.
constexpr auto kSilence = std::chrono::seconds(6);

}  // namespace

TcpLane::TcpLane(zmq::context_t& context, const TcpOptions& options, const LaneOptions& lane,
                 std::unique_ptr<Flight> flight, SharedCounters& counters)
    : context_(context),
      lane_(lane),
      counters_(counters),
      book_(std::make_shared<LaneBook>(options, std::move(flight))),
      pool_(lane.copy_threads, *book_->flight),
      identity_(random_identity()) {}

TcpLane::~TcpLane() {
  abort();
  stopping_ = true;
  book_->waker.wake();
  if (thread_.joinable()) thread_.join();
}

Status TcpLane::start() {
  const base::ScopedSignalMask mask;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    return Status(Code::kExhausted, std::string("cannot start a lane's thread: ") + error.what() +
                                        "; raise the limit on threads (ulimit -u)");
  }
  return pool_.start();
}

Result<std::shared_ptr<Segment>> TcpLane::acquire(const SegmentAddress& address) {
  if (!address.endpoint.starts_with("tcp://") || address.object.empty() ||
      address.object.size() > kMaxObjectBytes) {
    return Status(Code::kInvalid,
                  "expected the name of an object and an endpoint tcp://host:port "
                  "that serves it, got \"" +
                      address.object + "\" at \"" + address.endpoint + "\"");
  }
  return std::shared_ptr<Segment>(book_->hold(address));
}

Status TcpLane::submit(const std::shared_ptr<Segment>& segment, Bucket bucket) {
  auto tcp = std::dynamic_pointer_cast<TcpSegment>(segment);
  if (!tcp || !tcp->is_of(*book_)) {
    return Status(Code::kInvalid, "submit needs a segment that this tcp lane acquired");
  }
  if (Status fits = check_bucket(bucket, tcp->address().payload_bytes); !fits) return fits;
  const std::uint64_t bytes = bucket.bytes();
  if (bytes > kMaxBucketBytes || bucket.strips.size() > kMaxStrips) {
    return Status(Code::kInvalid,
                  "bucket " + std::to_string(bucket.id) + " has " + std::to_string(bytes) +
                      " bytes in " + std::to_string(bucket.strips.size()) +
                      " strips, expected at most " + std::to_string(kMaxBucketBytes) + " in " +
                      std::to_string(kMaxStrips) + ": cut it into smaller ones");
  }
  if (Status begun = book_->flight->begin(); !begun) return begun;
  OpenBucket open;
  open.bucket = std::move(bucket);
  open.segment = std::move(tcp);
  open.bytes = bytes;
  book_->open(std::move(open));
  return Status::ok();
}

void TcpLane::abort() noexcept {
  book_->flight->refuse();
  book_->abort();
  pool_.abort();
}

void TcpLane::run() {
  ::pthread_setname_np(::pthread_self(), "wc-tcp-lane");
  std::vector<zmq::pollitem_t> items;
  while (!stopping_) {
    wait(items);
    const auto now = Clock::now();
    for (const auto& link : links_) {
      note_changes(*link, now);
      take_replies(*link, now);
    }
    look_at_time(now);
    tell(now);
    ask(now);
    drop_unused_links();
  }
  part();
}

void TcpLane::wait(std::vector<zmq::pollitem_t>& items) {
  items.assign(1, {nullptr, book_->waker.fd(), ZMQ_POLLIN, 0});
  for (const auto& link : links_) {
    if (!link->connection || link->connection->handle() == nullptr) continue;
    const bool full = link->blocked && link->connection->up();
    items.push_back({link->connection->handle(), 0,
                     static_cast<short>(full ? ZMQ_POLLIN | ZMQ_POLLOUT : ZMQ_POLLIN), 0});
    items.push_back({link->connection->events_handle(), 0, ZMQ_POLLIN, 0});
  }
  std::chrono::milliseconds patience(1000);
  {
    const std::lock_guard guard(book_->mutex);
    if (!book_->holds.empty()) patience = kIdleLook;
    if (!book_->open_buckets.empty()) patience = kLook;
  }
  try {
    zmq::poll(items.data(), items.size(), patience);
  } catch (const zmq::error_t&) {
    // Interrupted, or a socket that is just going: looked at again.
  }
  if (items[0].revents != 0) book_->waker.drain();
}

/// The link, made where it is new.
TcpLane::Link& TcpLane::link_to(const SegmentAddress& address) {
  const Server server = server_of(address);
  for (const auto& link : links_) {
    if (link->server == server) return *link;
  }
  auto link = std::make_unique<Link>();
  link->server = server;
  link->backoff = kFirstReopen;
  link->heard = link->progress = Clock::now();
  links_.push_back(std::move(link));
  return *links_.back();
}

/// @return whether there is a socket; where not, it is tried again later
bool TcpLane::open(Link& link) {
  if (link.connection) return true;
  if (Clock::now() < link.reopen_at) return false;
  const TcpOptions& options = book_->options;
  auto opened = Connection::open(
      context_, {.endpoint = link.server.endpoint,
                 .identity = identity_,
                 .keys = options.keys,
                 .server = link.server.is_engine ? keys::Role::kEngine : keys::Role::kTrainer,
                 .queued_messages = static_cast<int>(std::min(lane_.max_in_flight, 1024U)) + 64,
                 .socket_buffer_bytes = options.socket_buffer_bytes});
  link.reopen_at = Clock::now() + kMostReopen;
  if (!opened) return false;
  link.connection = std::move(*opened);
  return true;
}

void TcpLane::note_changes(Link& link, Clock::time_point now) {
  if (!link.connection) return;
  using Change = Connection::Change;
  for (Change change; (change = link.connection->next_change()) != Change::kNone;) {
    if (change == Change::kUp) {
      ++counters_.connected;
      link.backoff = kFirstReopen;
      link.reopen_at = {};
      link.blocked = false;
      link.heard = now;
    } else {
      link.reopen_at = now + link.backoff;
      link.backoff = std::min(2 * link.backoff, kMostReopen);
      if (change == Change::kLost) {
        ++counters_.lost;
        lost(link);
      }
      if (change != Change::kDenied) continue;
      const Status why(Code::kDenied, link.server.endpoint + ": " + link.connection->trouble() +
                                          "; give both sides keys of one `weightcast keygen`");
      std::vector<std::uint64_t> ended;
      {
        const std::lock_guard guard(book_->mutex);
        for (const auto& [id, hold] : book_->holds) {
          if (server_of(hold.address) == link.server) ended.push_back(id);
        }
      }
      for (const std::uint64_t hold : ended) book_->end_open(hold, why);
    }
  }
}

/// What this connection was asked for will not come by it.
void TcpLane::lost(Link& link) {
  const std::lock_guard guard(book_->mutex);
  for (auto& [id, hold] : book_->holds) {
    if (server_of(hold.address) == link.server) hold.told = false;
  }
  for (auto& [id, open] : book_->open_buckets) {
    if (!open.asked || server_of(open.segment->address()) != link.server) continue;
    open.asked = false;
    book_->credit_used -= open.bytes;
  }
}

void TcpLane::reopen(Link& link) {
  lost(link);
  link.blocked = false;
  link.heard = Clock::now();
  link.reopen_at = link.heard + link.backoff;
  link.backoff = std::min(2 * link.backoff, kMostReopen);
  // Without descriptors it stays without a socket until the next time.
  if (link.connection) static_cast<void>(link.connection->reopen());
}

void TcpLane::look_at_time(Clock::time_point now) {
  const TcpOptions& options = book_->options;
  std::vector<std::pair<std::uint64_t, Status>> given_up;
  for (const auto& link : links_) {
    bool waits = false;
    {
      const std::lock_guard guard(book_->mutex);
      for (auto& [id, open] : book_->open_buckets) {
        if (server_of(open.segment->address()) != link->server) continue;
        if (now - std::max(open.opened_at, link->progress) > options.give_up_after) {
          const std::string trouble =
              link->connection ? link->connection->trouble() : "there is no socket to ask by";
          given_up.emplace_back(
              open.segment->hold(),
              Status(Code::kUnavailable,
                     link->server.endpoint + " has answered nothing for " +
                         std::to_string(options.give_up_after.count() / 1'000'000'000) + " s (" +
                         trouble +
                         "); check that it runs, that its port can be "
                         "reached, and that both sides have the same keys"));
        }
        if (!open.asked) continue;
        waits = true;
        if (now - std::max(open.asked_at, link->progress) < open.patience) continue;
        open.patience = std::min(2 * open.patience, options.retry_most);
        open.asked = false;
        book_->credit_used -= open.bytes;
      }
    }
    const bool due = link->reopen_at != Clock::time_point{} && now >= link->reopen_at;
    const bool dumb = waits && now - link->heard > kSilence;
    if (due || dumb) reopen(*link);
  }
  for (const auto& [hold, why] : given_up) book_->end_open(hold, why);
}

void TcpLane::drop_unused_links() {
  if (links_.size() < 2) return;
  const std::lock_guard guard(book_->mutex);
  // The newest stays, so that the next version finds its connection.
  const Link* const newest = links_.back().get();
  std::erase_if(links_, [&](const std::unique_ptr<Link>& link) {
    if (link.get() == newest) return false;
    return std::none_of(book_->holds.begin(), book_->holds.end(), [&](const auto& entry) {
      return server_of(entry.second.address) == link->server;
    });
  });
}

/// The lane's end: what it held is let go of.
void TcpLane::part() {
  {
    const std::lock_guard guard(book_->mutex);
    for (auto& [id, hold] : book_->holds) {
      if (hold.told) book_->releases.push_back(hold.address);
      hold.verdict = Status(Code::kCancelled, "the lane has ended");
    }
  }
  tell(Clock::now());
  for (const auto& link : links_) {
    if (link->connection) link->connection->part();
  }
}

}  // namespace weightcast::transport
