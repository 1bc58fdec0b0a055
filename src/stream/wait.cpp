#include "stream/wait.hpp"

#include <zmq.h>

#include <array>

namespace weightcast::stream {

void wait_for_work(Waker& waker, std::initializer_list<void*> sockets,
                   std::chrono::milliseconds timeout) {
  std::array<zmq_pollitem_t, 8> items{{{nullptr, waker.fd(), ZMQ_POLLIN, 0}}};
  std::size_t count = 1;
  for (void* socket : sockets) {
    if (socket != nullptr && count < items.size()) items[count++] = {socket, 0, ZMQ_POLLIN, 0};
  }
  // An interrupted wait is an early end: the caller looks at everything and waits again.
  if (zmq_poll(items.data(), static_cast<int>(count), timeout.count()) > 0 &&
      items[0].revents != 0) {
    waker.drain();
  }
}

}  // namespace weightcast::stream
