// A bad network on loopback: forwards TCP connections to a server, as slowly, lossily or
// one-sidedly as a test wants.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.hpp"
#include "base/waker.hpp"

namespace weightcast::test {

/// How the network behaves. Applies at once, to connections that stand as well.
struct Weather {
  std::uint64_t bytes_per_second =
      0;  ///< towards the client, all connections together; 0: no limit
  std::chrono::milliseconds delay{0};  ///< of everything, each way
  bool half_open = false;  ///< connections are accepted and stand, but nothing passes, either way;
                           ///< those that were so once stay so
  bool refuse = false;     ///< new connections are cut at once
};

/// Listens on a free port of loopback. One thread; ended by the destructor.
/// Thread safety: all calls from any thread.
class TcpProxy {
 public:
  /// @param server "tcp://127.0.0.1:port"
  explicit TcpProxy(const std::string& server) : server_port_(port_of(server)) {
    listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address = loopback(0);
    socklen_t size = sizeof address;
    auto* const plain = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener_.get(), plain, size) != 0 || ::listen(listener_.get(), 64) != 0 ||
        ::getsockname(listener_.get(), plain, &size) != 0) {
      ADD_FAILURE() << "no proxy on loopback: errno " << errno;
    }
    endpoint_ = "tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { run(); });
  }
  ~TcpProxy() {
    stopping_ = true;
    waker_.wake();
    thread_.join();
  }
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  const std::string& endpoint() const noexcept { return endpoint_; }

  void set(const Weather& weather) {
    with_lock([&] { weather_ = weather; });
  }
  /// The server's address from now on, for new connections.
  void lead_to(const std::string& server) {
    with_lock([&] { server_port_ = port_of(server); });
  }
  /// Ends all connections that stand.
  void cut() {
    with_lock([&] { cut_now_ = true; });
  }
  /// Ends all connections when so many bytes more have gone to the client.
  void cut_after(std::uint64_t bytes) {
    with_lock([&] { cut_at_ = forwarded_ + bytes; });
  }
  /// Flips a bit of the byte that comes after so many more to the client.
  void flip_after(std::uint64_t bytes) {
    with_lock([&] { flip_at_ = forwarded_ + bytes; });
  }

  std::uint64_t forwarded() const { return forwarded_; }  ///< bytes to clients
  std::uint64_t accepted() const { return accepted_; }    ///< connections
  std::uint64_t cuts() const { return cuts_; }            ///< connections that it ended
  std::uint64_t flips() const { return flips_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};
  static constexpr std::size_t kChunk = std::size_t{64} << 10;
  static constexpr std::size_t kMostQueued = std::size_t{1} << 20;  ///< one way of one connection

  struct Chunk {
    std::vector<char> bytes;
    std::size_t sent = 0;
    Time due;
  };
  struct Way {
    int from = -1;
    int to = -1;
    bool to_client = false;
    bool ended = false;  ///< `from` says no more
    std::deque<Chunk> queue{};
    std::size_t queued = 0;
  };
  struct Pair {
    base::UniqueFd client;
    base::UniqueFd server;
    std::array<Way, 2> ways;
    bool dead = false;
    bool frozen = false;
  };

  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    return address;
  }
  static std::uint16_t port_of(const std::string& endpoint) {
    return static_cast<std::uint16_t>(std::stoul(endpoint.substr(endpoint.rfind(':') + 1)));
  }

  template <class Change>
  void with_lock(Change&& change) {
    {
      const std::lock_guard lock(mutex_);
      change();
    }
    waker_.wake();
  }

  void run() {
    while (!stopping_) {
      std::vector<pollfd> items{{waker_.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      int patience = 100;
      {
        const std::lock_guard lock(mutex_);
        for (Pair& pair : pairs_) {
          if (weather_.half_open) pair.frozen = true;
          if (pair.frozen) continue;
          for (const Way& way : pair.ways) {
            if (!way.ended && way.queued < kMostQueued) {
              items.push_back({way.from, POLLIN, 0});
            }
            if (way.queue.empty()) continue;
            if (may_send(way)) {
              items.push_back({way.to, POLLOUT, 0});
            } else {
              patience = 1;  // until it is due, or the rate allows it
            }
          }
        }
      }
      ::poll(items.data(), items.size(), patience);
      waker_.drain();
      const std::lock_guard lock(mutex_);
      accept_new();
      for (Pair& pair : pairs_) {
        if (weather_.half_open) pair.frozen = true;
        for (Way& way : pair.ways) {
          if (!pair.frozen) move(pair, way);
        }
        if (cut_now_ || forwarded_ >= cut_at_) pair.dead = true;
        if (pair.dead) ++cuts_;
      }
      if (forwarded_ >= cut_at_) cut_at_ = kNever;
      cut_now_ = false;
      pairs_.remove_if([](const Pair& pair) {
        return pair.dead || (pair.ways[0].ended && pair.ways[1].ended &&
                             pair.ways[0].queue.empty() && pair.ways[1].queue.empty());
      });
    }
  }

  void accept_new() {
    base::UniqueFd client(
        ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) return;
    ++accepted_;
    if (weather_.refuse) return;
    // Loopback answers at once.
    base::UniqueFd server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(server_port_);
    if (::connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return;
    }
    ::fcntl(server.get(), F_SETFL, O_NONBLOCK);
    const int on = 1;
    for (const int fd : {client.get(), server.get()}) {
      ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    Pair& pair = pairs_.emplace_back();
    pair.ways[0] = {client.get(), server.get(), false};
    pair.ways[1] = {server.get(), client.get(), true};
    pair.client = std::move(client);
    pair.server = std::move(server);
  }

  /// Whether delay and rate let the first chunk go now.
  bool may_send(const Way& way) {
    const Time now = std::chrono::steady_clock::now();
    if (way.queue.front().due > now) return false;
    return !way.to_client || weather_.bytes_per_second == 0 || allowance(now) > 0;
  }

  /// Bytes that the rate allows to the client now: at most 50 ms' worth.
  double allowance(Time now) {
    const double rate = static_cast<double>(weather_.bytes_per_second);
    const std::chrono::duration<double> passed = now - counted_at_;
    counted_at_ = now;
    allowed_ = std::min(allowed_ + passed.count() * rate, rate / 20 + 1);
    return allowed_;
  }

  void move(Pair& pair, Way& way) {
    if (!way.ended && way.queued < kMostQueued) {
      Chunk chunk{std::vector<char>(kChunk), 0, std::chrono::steady_clock::now() + weather_.delay};
      const ssize_t got = ::recv(way.from, chunk.bytes.data(), kChunk, 0);
      if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) way.ended = true;
      if (got > 0) {
        chunk.bytes.resize(static_cast<std::size_t>(got));
        way.queued += chunk.bytes.size();
        way.queue.push_back(std::move(chunk));
      }
    }
    while (!way.queue.empty() && may_send(way) && send_first(pair, way)) {
    }
    if (way.ended && way.queue.empty()) ::shutdown(way.to, SHUT_WR);
  }

  /// @return whether a whole chunk went
  bool send_first(Pair& pair, Way& way) {
    Chunk& chunk = way.queue.front();
    std::size_t count = chunk.bytes.size() - chunk.sent;
    if (way.to_client) {
      if (weather_.bytes_per_second != 0) {
        count = std::min(count, static_cast<std::size_t>(allowed_) + 1);
      }
      if (cut_at_ != kNever) {
        count = std::min<std::size_t>(count, cut_at_ > forwarded_ ? cut_at_ - forwarded_ : 0);
        if (count == 0) return false;
      }
      if (flip_at_ >= forwarded_ && flip_at_ - forwarded_ < count) {
        chunk.bytes[chunk.sent + (flip_at_ - forwarded_)] ^= 0x10;
        flip_at_ = kNever;
        ++flips_;
      }
    }
    const ssize_t sent = ::send(way.to, chunk.bytes.data() + chunk.sent, count, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN && errno != EINTR) pair.dead = true;
      return false;
    }
    chunk.sent += static_cast<std::size_t>(sent);
    way.queued -= static_cast<std::size_t>(sent);
    if (way.to_client) {
      forwarded_ += static_cast<std::uint64_t>(sent);
      allowed_ -= static_cast<double>(sent);
    }
    if (chunk.sent < chunk.bytes.size()) return false;
    way.queue.pop_front();
    return true;
  }

  base::UniqueFd listener_;
  std::string endpoint_;
  base::Waker waker_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> forwarded_{0}, accepted_{0}, cuts_{0}, flips_{0};

  std::mutex mutex_;
  std::uint16_t server_port_;
  Weather weather_;
  bool cut_now_ = false;
  std::uint64_t cut_at_ = kNever;
  std::uint64_t flip_at_ = kNever;
  double allowed_ = 0;
  Time counted_at_ = std::chrono::steady_clock::now();
  std::list<Pair> pairs_;
  std::thread thread_;  ///< last: it uses all of them
};

}  // namespace weightcast::test
