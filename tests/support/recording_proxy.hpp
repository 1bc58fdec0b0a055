// Loopback TCP for tests: raw connections, and a proxy that records, holds and cuts.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.hpp"
#include "stream/waker.hpp"

namespace weightcast::test {

inline sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

/// A connection to a port of this host; none where nobody listens.
inline base::UniqueFd connect_to(std::uint16_t port) {
  base::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fd.reset();
  }
  return fd;
}

/// Sends all, or as much as the other end takes before it hangs up.
inline void send_all(int fd, const std::string& bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t sent = ::send(fd, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (sent <= 0) return;
    at += static_cast<std::size_t>(sent);
  }
}

/// Reads until the other end hangs up, at most ten seconds. @return whether it did
inline bool hears_the_end(int fd) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  char bytes[4096];
  while (std::chrono::steady_clock::now() < deadline) {
    pollfd in{fd, POLLIN, 0};
    if (::poll(&in, 1, 100) > 0 && ::read(fd, bytes, sizeof bytes) <= 0) return true;
  }
  return false;
}

/// Forwards connections to another port of this host, on a thread of its own.
class RecordingProxy {
 public:
  explicit RecordingProxy(std::uint16_t to) : to_(to) {
    listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_.get(), 64), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~RecordingProxy() {
    stop_ = true;
    waker_.wake();
    thread_.join();
  }
  RecordingProxy(const RecordingProxy&) = delete;
  RecordingProxy& operator=(const RecordingProxy&) = delete;

  std::uint16_t port() const noexcept { return port_; }
  /// While held nothing moves, and nobody is told: as behind a cable that was pulled.
  void hold(bool on) {
    held_ = on;
    waker_.wake();
  }
  /// Ends all connections at once, with a reset.
  void cut() {
    cut_ = true;
    waker_.wake();
  }
  /// What the first client has said so far.
  std::string recorded() const {
    const std::lock_guard lock(mutex_);
    return recorded_;
  }

 private:
  struct Way {
    int from = -1;
    int to = -1;
    std::string pending{};
    bool recorded = false;
  };
  struct Connection {
    base::UniqueFd client;
    base::UniqueFd server;
    Way ways[2];
  };

  void run() {
    while (!stop_) {
      if (cut_.exchange(false)) reset_all();
      std::vector<pollfd> waiting{{waker_.fd(), POLLIN, 0}};
      if (!held_) {
        waiting.push_back({listener_.get(), POLLIN, 0});
        for (Connection& connection : connections_) {
          for (const Way& way : connection.ways) {
            waiting.push_back(way.pending.empty() ? pollfd{way.from, POLLIN, 0}
                                                  : pollfd{way.to, POLLOUT, 0});
          }
        }
      }
      ::poll(waiting.data(), waiting.size(), 1000);
      if (waiting[0].revents != 0) waker_.drain();
      if (held_ || cut_ || waiting.size() == 1) continue;
      std::size_t at = 2;
      for (auto it = connections_.begin(); it != connections_.end();) {
        bool alive = true;
        for (Way& way : it->ways) {
          if (waiting[at++].revents != 0) alive = move(way) && alive;
        }
        it = alive ? std::next(it) : connections_.erase(it);
      }
      if (waiting[1].revents != 0) take_one();
    }
  }

  void reset_all() {
    const linger abrupt{.l_onoff = 1, .l_linger = 0};
    for (const Connection& connection : connections_) {
      for (const int fd : {connection.client.get(), connection.server.get()}) {
        ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
      }
    }
    connections_.clear();
  }

  void take_one() {
    Connection connection;
    connection.client.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    connection.server = connect_to(to_);
    if (!connection.client || !connection.server) return;
    const int client = connection.client.get();
    const int server = connection.server.get();
    connection.ways[0] = {.from = client, .to = server, .recorded = first_};
    connection.ways[1] = {.from = server, .to = client};
    first_ = false;
    connections_.push_back(std::move(connection));
  }

  bool move(Way& way) {
    if (way.pending.empty()) {
      char bytes[64 * 1024];
      const ssize_t got = ::recv(way.from, bytes, sizeof bytes, MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
      if (got <= 0) return false;
      way.pending.assign(bytes, static_cast<std::size_t>(got));
      if (way.recorded) {
        const std::lock_guard lock(mutex_);
        recorded_ += way.pending;
      }
    }
    const ssize_t sent =
        ::send(way.to, way.pending.data(), way.pending.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    way.pending.erase(0, static_cast<std::size_t>(sent));
    return true;
  }

  const std::uint16_t to_;
  std::uint16_t port_ = 0;
  base::UniqueFd listener_;
  stream::Waker waker_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> held_{false};
  std::atomic<bool> cut_{false};
  mutable std::mutex mutex_;
  std::string recorded_;
  bool first_ = true;                  // the thread's
  std::list<Connection> connections_;  // the thread's
  std::thread thread_;
};

}  // namespace weightcast::test
