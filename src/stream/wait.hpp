// What an I/O thread waits for: its sockets and its waker.
#pragma once

#include <chrono>

#include "stream/control_socket.hpp"
#include "stream/waker.hpp"

namespace weightcast::stream {

/// Waits until a socket has messages, the waker was woken (it is drained here), or `timeout` is over.
/// @param server may be null
/// @param client may be null
void wait_for_work(Waker& waker, ControlServer* server, ControlClient* client,
                   std::chrono::milliseconds timeout);

}  // namespace weightcast::stream
