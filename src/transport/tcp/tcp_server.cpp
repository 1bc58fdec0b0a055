#include "transport/tcp/tcp_server.hpp"

#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>
#include <utility>

#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "keys/zap.hpp"
#include "transport/tcp/payload.hpp"
#include "transport/tcp/sockets.hpp"
#include "transport/tcp/wire.hpp"

namespace weightcast::transport {
namespace {

constexpr auto kLogPeriod = std::chrono::seconds(10);
/// A turn that took longer was this process being stopped, not its peers being silent.
constexpr auto kPause = std::chrono::seconds(1);
/// Sent before the socket is looked at again.
constexpr std::uint64_t kTurnBytes = std::uint64_t{8} << 20;

/// The host in "tcp://host:port".
std::string host_of(const std::string& endpoint) {
  const auto begin = endpoint.find("://") + 3;
  return endpoint.substr(begin, endpoint.rfind(':') - begin);
}

}  // namespace

struct TcpServer::Impl {
  Impl(const TcpServerOptions& how, std::shared_ptr<SegmentStore> store)
      : options(how), context(how.io_threads), peers(how.limits, std::move(store)) {
    context.set(zmq::ctxopt::blocky, 0);
  }

  Status open();
  void run();
  std::size_t take_requests();
  void take(const std::string& peer, zmq::message_t& body);
  bool serve();
  bool answer(const std::string& id, ServerPeers::Peer& peer, Ask& ask);
  bool send(const std::string& peer, const DataReply& reply, zmq::message_t* payload);
  std::uint64_t stop(Deadline deadline);

  TcpServerOptions options;
  std::string endpoint;
  zmq::context_t context;
  std::unique_ptr<keys::Zap> zap;
  zmq::socket_t router;
  ServerPeers peers;  // the thread's
  std::shared_ptr<Departures> departures = std::make_shared<Departures>();
  bool starved = false;  // somebody could be served once a reply has gone

  std::atomic<std::uint64_t> requests{0}, bytes_sent{0}, refused{0}, invalid{0}, spoiled{0};
  std::atomic<std::uint64_t> peer_count{0}, hold_count{0};
  base::RateLimit refusal_log{kLogPeriod};
  std::atomic<bool> stopping{false};
  std::thread thread;
};

TcpServer::TcpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

TcpServer::~TcpServer() { impl_->stop(Clock::now()); }

Result<std::unique_ptr<TcpServer>> TcpServer::start(const TcpServerOptions& options,
                                                    std::shared_ptr<SegmentStore> store) {
  auto impl = std::make_unique<Impl>(options, std::move(store));
  if (Status opened = impl->open(); !opened) return opened;
  const base::ScopedSignalMask mask;
  try {
    impl->thread = std::thread([raw = impl.get()] { raw->run(); });
  } catch (const std::system_error& error) {
    return Status(Code::kExhausted, std::string("cannot start the server's thread: ") +
                                        error.what() + "; raise the limit on threads (ulimit -u)");
  }
  return std::unique_ptr<TcpServer>(new TcpServer(std::move(impl)));
}

const std::string& TcpServer::endpoint() const noexcept { return impl_->endpoint; }

TcpServerCounters TcpServer::counters() const noexcept {
  return {.requests = impl_->requests,
          .bytes_sent = impl_->bytes_sent,
          .refused = impl_->refused,
          .invalid = impl_->invalid,
          .denied_handshakes = impl_->zap ? impl_->zap->denied() : 0,
          .failed_handshakes = impl_->zap ? impl_->zap->failed_handshakes() : 0,
          .spoiled = impl_->spoiled,
          .peers = impl_->peer_count,
          .holds = impl_->hold_count};
}

Status TcpServer::close(Deadline deadline) {
  const std::uint64_t left = impl_->stop(deadline);
  if (left == 0) return Status::ok();
  return {Code::kDeadline, std::to_string(left) +
                               " replies had not gone out at the deadline and are dropped; their "
                               "receivers ask another holder, or take the next version"};
}

Status TcpServer::Impl::open() {
  try {
    router = zmq::socket_t(context, zmq::socket_type::router);
    set_common_options(router, options.socket_buffer_bytes);
    router.set(zmq::sockopt::router_mandatory, true);
    // A peer that comes back by another connection is the same peer.
    router.set(zmq::sockopt::router_handover, true);
    // A burst of connections must not make others wait for TCP to try again.
    router.set(zmq::sockopt::backlog, 1024);
    router.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxRequestBytes));
    const int queued = static_cast<int>(options.limits.requests_a_peer) + 64;
    router.set(zmq::sockopt::rcvhwm, queued);
    router.set(zmq::sockopt::sndhwm, 2 * queued);
    if (options.keys) {
      auto started = keys::Zap::start(context.handle(), options.keys);
      if (!started) return started.status();
      zap = std::move(*started);
      if (Status s = zap->protect(router.handle()); !s) return s;
    }
    router.bind(options.bind);
    endpoint = router.get(zmq::sockopt::last_endpoint);
  } catch (const zmq::error_t& error) {
    return socket_error("cannot serve at '" + options.bind + "'", error);
  }
  const std::string host = options.advertise.empty() ? host_of(endpoint) : options.advertise;
  if (host == "0.0.0.0" || host == "[::]" || host == "*") {
    return {Code::kInvalid, "'" + options.bind + "' listens on every address of this host, which " +
                                "none of the others can connect to by that name: say which host " +
                                "to advertise"};
  }
  endpoint = "tcp://" + host + endpoint.substr(endpoint.rfind(':'));
  return Status::ok();
}

/// @return how many replies did not go out
std::uint64_t TcpServer::Impl::stop(Deadline deadline) {
  if (thread.joinable()) {
    stopping = true;
    departures->waker.wake();
    thread.join();
  }
  peers.clear();
  // What ZeroMQ has taken goes out meanwhile.
  while (departures->replies > 0 && Clock::now() < deadline) {
    departures->wanted = true;
    if (departures->replies == 0) break;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    pollfd gone{departures->waker.fd(), POLLIN, 0};
    ::poll(&gone, 1, std::max(1, static_cast<int>(std::min<std::int64_t>(left.count(), 1000))));
    departures->waker.drain();
  }
  const std::uint64_t left = departures->replies;
  router.close();
  return left;
}

void TcpServer::Impl::run() {
  ::pthread_setname_np(::pthread_self(), "wc-tcp-serve");
  bool more = false;
  auto last = Clock::now();
  auto expired = last;
  while (!stopping) {
    std::array<zmq::pollitem_t, 2> items{
        {{router.handle(), 0, ZMQ_POLLIN, 0}, {nullptr, departures->waker.fd(), ZMQ_POLLIN, 0}}};
    const auto look = std::clamp<Duration>(options.limits.silence / 4, std::chrono::milliseconds(5),
                                           std::chrono::milliseconds(250));
    try {
      zmq::poll(items.data(), items.size(),
                more ? std::chrono::milliseconds(0)
                     : std::chrono::duration_cast<std::chrono::milliseconds>(look));
      if (items[1].revents != 0) departures->waker.drain();
      const auto now = Clock::now();
      more = take_requests() > 0;
      if (now - last > kPause + look) peers.hear_all(now);
      more = serve() || more;
      if (now - expired >= look) {
        peers.expire(now);
        expired = now;
      }
      last = now;
      peer_count = peers.all().size();
      hold_count = peers.holds();
    } catch (const std::exception& error) {
      // Memory is short, or ZeroMQ was interrupted: the peers ask again.
      if (refusal_log.allow(Clock::now())) {
        base::log(LogLevel::kWarn, "tcp_server_failed", {{"what", error.what()}});
      }
    }
  }
  peers.clear();
}

/// @return how many requests were taken in
std::size_t TcpServer::Impl::take_requests() {
  std::size_t count = 0;
  for (; count < options.limits.requests_a_turn; ++count) {
    zmq::message_t id;
    if (!router.recv(id, zmq::recv_flags::dontwait)) break;
    zmq::message_t body;
    bool more = id.more();
    int parts = 1;
    for (; more; ++parts) {
      zmq::message_t rest;
      if (!router.recv(rest, zmq::recv_flags::dontwait)) break;
      more = rest.more();
      if (parts == 1) body = std::move(rest);
    }
    ++requests;
    if (parts == 2) {
      take(id.to_string(), body);
    } else {
      ++invalid;
    }
  }
  return count;
}

void TcpServer::Impl::take(const std::string& id, zmq::message_t& body) {
  const auto now = Clock::now();
  auto request = decode_request({body.data<std::byte>(), body.size()});
  if (!request) {
    ++invalid;
    if (refusal_log.allow(now)) {
      base::log(LogLevel::kWarn, "tcp_request_invalid", {{"why", request.status().message()}});
    }
    return;
  }
  const auto refuse = [&](Status why) {
    const bool limit = why.code() == Code::kExhausted || why.code() == Code::kDenied;
    if (limit) ++refused;
    if (limit && refusal_log.allow(now)) {
      base::log(LogLevel::kWarn, "tcp_request_refused",
                {{"refused", refused.load()}, {"why", why.message()}});
    }
    send(id, {.id = request->id, .status = std::move(why)}, nullptr);
  };
  if (options.keys) {
    const auto role = keys::role_of_message(body.handle());
    if (!role || !options.clients.contains(*role)) {
      return refuse(
          {Code::kDenied, "expected the key of a role that may read here, got " +
                              (role ? "that of an allowed " + std::string(keys::role_name(*role))
                                    : std::string("none")) +
                              "; connect with the keys of the right role"});
    }
  }
  ServerPeers::Peer* const peer = peers.find_or_add(id, now);
  if (peer == nullptr) {
    return refuse({Code::kExhausted, "expected at most " + std::to_string(options.limits.peers) +
                                         " peers; this is one more: try again later"});
  }
  if (request->kind == RequestKind::kRelease) return peers.release(*peer, request->segment);
  if (request->kind == RequestKind::kSession) {
    SessionAnswer answer;
    answer.kind = SessionAnswer::Kind::kRefuse;
    answer.status = {Code::kUnavailable, "this source does not send over nccl"};
    if (options.sessions) answer = options.sessions(request->session);
    DataReply reply{.id = request->id, .status = answer.status};
    reply.session = std::move(answer);
    send(id, reply, nullptr);
    return;
  }
  auto segment = peers.hold(*peer, request->segment, now);
  if (!segment) return refuse(segment.status());
  if (request->kind == RequestKind::kHold) {
    send(id, {.id = request->id, .status = {}}, nullptr);
  } else if (peer->asks.size() >= options.limits.requests_a_peer) {
    refuse({Code::kExhausted, "expected at most " + std::to_string(options.limits.requests_a_peer) +
                                  " requests of a peer to wait; this is one more: ask for fewer " +
                                  "buckets at once"});
  } else {
    peer->asks.push_back({std::move(*request), std::move(*segment)});
  }
}

/// One bucket for each peer in turn. @return whether there is more to send now
bool TcpServer::Impl::serve() {
  starved = false;
  std::uint64_t sent = 0;
  for (bool some = true; some && sent < kTurnBytes;) {
    some = false;
    for (auto& [id, peer] : peers.all()) {
      if (peer.asks.empty()) continue;
      const std::uint64_t bytes = peer.asks.front().request.bytes;
      if (!answer(id, peer, peer.asks.front())) continue;
      peer.asks.pop_front();
      sent += std::max<std::uint64_t>(bytes, 4096);
      some = true;
    }
  }
  if (!starved) return sent >= kTurnBytes;
  // Replies that went meanwhile woke nobody: look once more.
  return !departures->wanted.exchange(true);
}

/// @return false where it has to wait until other replies have gone
bool TcpServer::Impl::answer(const std::string& id, ServerPeers::Peer& peer, Ask& ask) {
  const std::uint64_t bytes = ask.request.bytes;
  const UnderWay& under_way = *peer.under_way;
  const bool peer_full =
      under_way.replies >= options.limits.requests_a_peer ||
      (under_way.bytes > 0 && under_way.bytes + bytes > options.limits.bytes_a_peer);
  const bool room_full = is_gathered(ask.request) && departures->gathered > 0 &&
                         departures->gathered + bytes > options.limits.gathered_bytes;
  if (peer_full || room_full) {
    starved = true;
    return false;
  }
  DataReply reply{.id = ask.request.id, .status = {}, .bytes = bytes};
  if (bytes == 0) {
    send(id, reply, nullptr);
    return true;
  }
  const bool spoil = options.spoil && options.spoil();
  if (spoil) ++spoiled;
  zmq::message_t payload = make_payload(ask, peer.under_way, departures, spoil, reply.digest);
  bytes_sent += bytes;  // before its receiver can tell anybody
  if (!send(id, reply, &payload)) bytes_sent -= bytes;
  return true;
}

/// @return false where it was dropped: the peer is gone, or does not read. It will ask again.
bool TcpServer::Impl::send(const std::string& id, const DataReply& reply, zmq::message_t* payload) {
  const std::string header = encode(reply);
  try {
    if (!router.send(zmq::buffer(id), zmq::send_flags::sndmore | zmq::send_flags::dontwait)) {
      return false;
    }
    const auto more = payload != nullptr ? zmq::send_flags::sndmore : zmq::send_flags::none;
    // The socket has chosen the connection: it takes the rest without waiting.
    router.send(zmq::buffer(header), more | zmq::send_flags::dontwait);
    if (payload != nullptr) router.send(std::move(*payload), zmq::send_flags::dontwait);
    return true;
  } catch (const zmq::error_t&) {
    return false;  // no such connection any more
  }
}

}  // namespace weightcast::transport
