#include "stream/connection_watch.hpp"

#include <zmq.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace weightcast::stream {
namespace {

constexpr const char* kEvents = "inproc://connection-watch";
constexpr int kWanted = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED |
                        ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
constexpr int kMostAtOnce = 256;

}  // namespace

ConnectionWatch::ConnectionWatch(void* context, void* socket) : socket_(socket) {
  if (::zmq_socket_monitor(socket_, kEvents, kWanted) != 0) return;
  events_ = ::zmq_socket(context, ZMQ_PAIR);
  if (events_ != nullptr && ::zmq_connect(events_, kEvents) != 0) {
    ::zmq_close(events_);
    events_ = nullptr;
  }
}

ConnectionWatch::~ConnectionWatch() {
  ::zmq_socket_monitor(socket_, nullptr, 0);
  if (events_ != nullptr) ::zmq_close(events_);
}

Contact ConnectionWatch::look() {
  for (int i = 0; events_ != nullptr && i < kMostAtOnce; ++i) {
    // Two parts: the event's number and value, and the address.
    std::array<char, 6> event{};
    if (::zmq_recv(events_, event.data(), event.size(), ZMQ_DONTWAIT) < 2) break;
    std::array<char, 8> address{};
    ::zmq_recv(events_, address.data(), address.size(), ZMQ_DONTWAIT);
    std::uint16_t number = 0;
    std::memcpy(&number, event.data(), sizeof number);
    switch (number) {
      case ZMQ_EVENT_CONNECTED: contact_.reached = true; break;
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED: contact_.established = true; break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH: contact_.key_refused = true; break;
      default: contact_.cut_off = true; break;
    }
  }
  return contact_;
}

}  // namespace weightcast::stream
