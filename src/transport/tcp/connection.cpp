#include "transport/tcp/connection.hpp"

#include <atomic>
#include <cstring>
#include <utility>

#include "keys/zap.hpp"
#include "transport/tcp/sockets.hpp"

namespace weightcast::transport {
namespace {

constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                        ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
constexpr int kPartingMs = 100;
/// A call of receive() drops at most so many replies that make no sense.
constexpr int kMaxDropped = 64;

std::string events_name() {
  static std::atomic<std::uint64_t> count{0};
  return "inproc://weightcast.data." + std::to_string(count++);
}

}  // namespace

Connection::Connection(zmq::context_t& context, ConnectionOptions options)
    : context_(context), options_(std::move(options)) {}

Connection::~Connection() { shut(); }

Result<std::unique_ptr<Connection>> Connection::open(zmq::context_t& context,
                                                     ConnectionOptions options) {
  std::unique_ptr<Connection> connection(new Connection(context, std::move(options)));
  if (Status opened = connection->reopen(); !opened) return opened;
  return connection;
}

void Connection::shut() noexcept {
  if (socket_) zmq_socket_monitor(socket_.handle(), nullptr, 0);
  events_.close();
  socket_.close();
  up_ = false;
}

Status Connection::reopen() {
  shut();
  try {
    socket_ = zmq::socket_t(context_, zmq::socket_type::dealer);
    set_common_options(socket_, options_.socket_buffer_bytes);
    socket_.set(zmq::sockopt::routing_id, options_.identity);
    // Nothing is queued for a server that is not there: it is asked again when it is.
    socket_.set(zmq::sockopt::immediate, true);
    socket_.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(kMaxBucketBytes));
    socket_.set(zmq::sockopt::sndhwm, options_.queued_messages);
    socket_.set(zmq::sockopt::rcvhwm, options_.queued_messages);
    // Milliseconds.
    socket_.set(zmq::sockopt::reconnect_ivl, 50);
    socket_.set(zmq::sockopt::reconnect_ivl_max, 1000);
    socket_.set(zmq::sockopt::connect_timeout, 3000);
    if (options_.keys) {
      if (Status s = keys::use_keys(socket_.handle(), *options_.keys, options_.server); !s) {
        return s;
      }
    }
    const std::string name = events_name();
    events_ = zmq::socket_t(context_, zmq::socket_type::pair);
    events_.set(zmq::sockopt::linger, 0);
    if (zmq_socket_monitor(socket_.handle(), name.c_str(), kEvents) != 0) throw zmq::error_t();
    events_.connect(name);
    socket_.connect(options_.endpoint);
    return Status::ok();
  } catch (const zmq::error_t& error) {
    shut();
    return socket_error("cannot connect to '" + options_.endpoint + "'", error);
  }
}

bool Connection::send(const std::string& request) {
  if (!socket_) return false;
  try {
    return socket_.send(zmq::buffer(request), zmq::send_flags::dontwait).has_value();
  } catch (const zmq::error_t&) {
    return false;
  }
}

std::optional<Connection::Reply> Connection::receive() {
  if (!socket_) return std::nullopt;
  try {
    for (int i = 0; i < kMaxDropped; ++i) {
      zmq::message_t header;
      if (!socket_.recv(header, zmq::recv_flags::dontwait)) return std::nullopt;
      Reply reply;
      bool more = header.more();
      int parts = 1;
      for (; more; ++parts) {
        zmq::message_t rest;
        if (!socket_.recv(rest, zmq::recv_flags::dontwait)) break;
        more = rest.more();
        if (parts == 1) reply.payload = std::move(rest);
      }
      auto decoded = decode_reply({header.data<std::byte>(), header.size()});
      if (!decoded || parts > 2 || decoded->bytes != reply.payload.size()) continue;
      reply.header = std::move(*decoded);
      return reply;
    }
  } catch (const zmq::error_t&) {
    // Interrupted, or the context is gone: nothing comes.
  }
  return std::nullopt;
}

Connection::Change Connection::next_change() {
  if (!events_) return Change::kNone;
  try {
    zmq::message_t event;
    if (!events_.recv(event, zmq::recv_flags::dontwait)) return Change::kNone;
    zmq::message_t address;
    if (event.more() && !events_.recv(address, zmq::recv_flags::dontwait)) return Change::kNone;
    std::uint16_t kind = 0;
    if (event.size() < sizeof kind) return Change::kNone;
    std::memcpy(&kind, event.data(), sizeof kind);
    if (kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
      up_ = true;
      return Change::kUp;
    }
    if (kind == ZMQ_EVENT_DISCONNECTED) {
      trouble_ = "the connection was lost";
      up_ = false;
      return Change::kLost;
    }
    if (kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) {
      trouble_ = "the server does not know this process's key";
      return Change::kDenied;
    }
    trouble_ = options_.keys ? "the handshake failed: the server has another key than this side "
                               "expects, or is no weightcast"
                             : "the handshake failed: the server wants keys, or is no weightcast";
    return Change::kFailed;
  } catch (const zmq::error_t&) {
    return Change::kNone;
  }
}

void Connection::part() noexcept {
  try {
    if (socket_) socket_.set(zmq::sockopt::linger, kPartingMs);
  } catch (const zmq::error_t&) {
    // It stays 0, which only means that less goes out.
  }
  shut();
}

}  // namespace weightcast::transport
