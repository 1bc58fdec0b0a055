// A client of an HTTP endpoint on the loopback address that sends what it is told, sense or not.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "base/unique_fd.hpp"

namespace weightcast::test {

/// "http://127.0.0.1:9464/metrics" -> 9464.
inline int port_of(const std::string& url) {
  const std::size_t colon = url.rfind(':');
  return colon == std::string::npos ? 0 : std::stoi(url.substr(colon + 1));
}

class HttpClient {
 public:
  explicit HttpClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ =
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }

  bool connected() const noexcept { return connected_; }

  /// A connection that the other side has closed is no failure here: read() shows it.
  void send(const std::string& bytes) {
    std::size_t at = 0;
    while (at < bytes.size()) {
      const ssize_t sent =
          ::send(socket_.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return;
      at += static_cast<std::size_t>(sent);
    }
  }

  /// All until the other side ends it; `*ended` tells whether it did within a minute.
  std::string read(bool* ended = nullptr) {
    std::string all;
    char piece[4096];
    if (ended != nullptr) *ended = true;
    for (;;) {
      pollfd one{socket_.get(), POLLIN, 0};
      if (::poll(&one, 1, 60'000) <= 0) break;
      const ssize_t got = ::recv(socket_.get(), piece, sizeof piece, 0);
      if (got <= 0) return all;
      all.append(piece, static_cast<std::size_t>(got));
    }
    if (ended != nullptr) *ended = false;
    return all;
  }

 private:
  base::UniqueFd socket_;
  bool connected_ = false;
};

/// The whole answer, with its head.
inline std::string http(int port, const std::string& request) {
  HttpClient client(port);
  if (!client.connected()) return "no connection";
  client.send(request);
  return client.read();
}

/// The body of GET /metrics.
inline std::string scrape(const std::string& url) {
  const std::string answer =
      http(port_of(url), "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 ")) << answer.substr(0, 200);
  const std::size_t body = answer.find("\r\n\r\n");
  return body == std::string::npos ? std::string() : answer.substr(body + 4);
}

}  // namespace weightcast::test
