#include "transport/tcp/session_client.hpp"

#include <algorithm>
#include <utility>

#include "transport/tcp/sockets.hpp"
#include "transport/tcp/wire.hpp"

namespace weightcast::transport {
namespace {

/// As a lane's: ZeroMQ gives up after some failures, and says so of none.
constexpr Duration kFirstBackoff = std::chrono::milliseconds(500);
constexpr Duration kMostBackoff = std::chrono::seconds(4);

}  // namespace

Result<std::unique_ptr<SessionClient>> SessionClient::open(
    const SegmentAddress& share, std::shared_ptr<const keys::KeyRing> keys) {
  std::unique_ptr<SessionClient> client(new SessionClient(share));
  client->context_.set(zmq::ctxopt::blocky, 0);
  auto connection = Connection::open(
      client->context_,
      {.endpoint = share.endpoint,
       .identity = random_identity(),
       .keys = std::move(keys),
       .server = share.from_engine ? keys::Role::kEngine : keys::Role::kTrainer});
  if (!connection) return connection.status();
  client->connection_ = std::move(*connection);
  return client;
}

SessionClient::~SessionClient() {
  if (connection_) connection_->part();
}

void SessionClient::send(const SessionAsk& ask, Clock::time_point now) {
  while (connection_->next_change() != Connection::Change::kNone) {
  }
  if (connection_->up() || reopen_at_ == Clock::time_point{}) {
    backoff_ = kFirstBackoff;
    reopen_at_ = now + backoff_;
  } else if (now >= reopen_at_) {
    (void)connection_->reopen();
    backoff_ = std::min(2 * backoff_, kMostBackoff);
    reopen_at_ = now + backoff_;
  }
  DataRequest request{.id = ++last_, .kind = RequestKind::kSession, .segment = share_};
  request.segment.version = ask.version;
  request.segment.generation = ask.generation;
  request.session = ask;
  (void)connection_->send(encode(request));
}

std::optional<SessionAnswer> SessionClient::receive() {
  while (auto reply = connection_->receive()) {
    if (reply->header.id != last_) continue;
    if (reply->header.session) return std::move(reply->header.session);
    if (reply->header.status) continue;
    SessionAnswer refusal;
    refusal.kind = SessionAnswer::Kind::kRefuse;
    refusal.status = reply->header.status;
    return refusal;
  }
  return std::nullopt;
}

}  // namespace weightcast::transport
