#include "stream/wait.hpp"

#include <zmq.h>

namespace weightcast::stream {

void wait_for_work(Waker& waker, ControlServer* server, ControlClient* client,
                   std::chrono::milliseconds timeout) {
  zmq_pollitem_t items[3] = {{nullptr, waker.fd(), ZMQ_POLLIN, 0}};
  int count = 1;
  for (void* socket : {server != nullptr ? server->handle() : nullptr,
                       client != nullptr ? client->handle() : nullptr}) {
    if (socket != nullptr) items[count++] = {socket, 0, ZMQ_POLLIN, 0};
  }
  // An interrupted wait is an early end: the caller looks at everything and waits again.
  if (zmq_poll(items, count, timeout.count()) > 0 && items[0].revents != 0) waker.drain();
}

}  // namespace weightcast::stream
