// How far a client's connection has come, for people who ask why nobody answers.
#pragma once

#include <memory>

namespace weightcast::stream {

/// What has happened at least once.
struct Contact {
  bool reached = false;       ///< somebody listens there
  bool cut_off = false;       ///< who listens ended the connection before it was one
  bool key_refused = false;   ///< who listens said that this key is on no list
  bool established = false;   ///< keys fit
};

/// Listens to what ZeroMQ tells of a socket. Thread safety: the socket's one thread.
class ConnectionWatch {
 public:
  /// @param context, socket ZeroMQ's, which outlive this object; before the socket connects
  ConnectionWatch(void* context, void* socket);
  ~ConnectionWatch();
  ConnectionWatch(const ConnectionWatch&) = delete;
  ConnectionWatch& operator=(const ConnectionWatch&) = delete;

  /// Does not wait.
  Contact look();

 private:
  void* socket_;
  void* events_ = nullptr;  ///< where ZeroMQ tells; null where it cannot
  Contact contact_;
};

}  // namespace weightcast::stream
