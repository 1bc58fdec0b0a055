// What the data sockets of both sides have in common.
#pragma once

#include <random>
#include <string>
#include <zmq.hpp>

#include <weightcast/status.hpp>

namespace weightcast::transport {

/// Sets the bounds that both sides share: who connects and says nothing, or is dead later, is cut off
/// within seconds; nothing waits for a peer at the end. Throws zmq::error_t.
inline void set_common_options(zmq::socket_t& socket, int socket_buffer_bytes) {
  socket.set(zmq::sockopt::linger, 0);
  // Milliseconds.
  socket.set(zmq::sockopt::handshake_ivl, 3000);
  // The kernel finds dead connections. ZeroMQ's own heartbeats end the process where a connection
  // breaks while its receive queue is full (libzmq 4.3.4, issues 3937 and 4364).
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 4);  // seconds
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 2);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 3);
  socket.set(zmq::sockopt::tcp_maxrt, 10'000);
  if (socket_buffer_bytes > 0) {
    socket.set(zmq::sockopt::sndbuf, socket_buffer_bytes);
    socket.set(zmq::sockopt::rcvbuf, socket_buffer_bytes);
  }
}

/// A routing id that nobody can guess.
inline std::string random_identity() {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::random_device random;
  std::string text;
  for (int i = 0; i < 32; ++i) text += kDigits[random() % 16];
  return text;
}

/// An error of ZeroMQ as ours.
inline Status socket_error(const std::string& what, const zmq::error_t& error) {
  const int number = error.num();
  const Code code = number == EMFILE || number == ENFILE || number == ENOMEM ? Code::kExhausted
                    : number == EADDRINUSE                                   ? Code::kExists
                    : number == EINVAL || number == EPROTONOSUPPORT          ? Code::kInvalid
                                                                             : Code::kDenied;
  return {code, what + ": " + error.what()};
}

}  // namespace weightcast::transport
