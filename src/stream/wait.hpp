// What an I/O thread waits for: its sockets and its waker.
#pragma once

#include <chrono>
#include <initializer_list>

#include "stream/waker.hpp"

namespace weightcast::stream {

/// Waits until a socket has messages, the waker was woken (it is drained here), or `timeout` is
/// over.
/// @param sockets handle() of at most seven servers and clients; null ones are passed over
void wait_for_work(Waker& waker, std::initializer_list<void*> sockets,
                   std::chrono::milliseconds timeout);

}  // namespace weightcast::stream
