// Weights as raw bytes over a socket, without weightcast: the baseline of the benchmarks.
//
// "ipc": as the plain twin of the example: all parameters packed into one message, sent over a ZeroMQ
// PUB socket, copied into the worker's tensors. "stream": the best that a plain program could do on one
// host: a stream socket for each worker, written straight from the tensors by a thread each, and read
// straight into the worker's tensors. Workers acknowledge each version.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <torch/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>
#include <zmq.hpp>

namespace bench {

inline void write_all(int fd, const void* data, std::size_t bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes != 0) {
    const ssize_t n = ::send(fd, at, bytes, MSG_NOSIGNAL);
    if (n <= 0) throw std::system_error(errno, std::generic_category(), "send");
    at += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

inline bool read_all(int fd, void* data, std::size_t bytes) {
  auto* at = static_cast<char*>(data);
  while (bytes != 0) {
    const ssize_t n = ::recv(fd, at, bytes, 0);
    if (n <= 0) return false;
    at += n;
    bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

inline sockaddr_un stream_address(const std::string& directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = directory + "/stream";
  if (path.size() >= sizeof address.sun_path) throw std::runtime_error("the directory is too long");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

inline constexpr int kStreamBuffer = 4 << 20;

class RawSender {
 public:
  /// Waits for all workers.
  RawSender(const std::string& directory, int workers, bool stream) : workers_(workers) {
    acks_.bind("ipc://" + directory + "/acks");
    if (stream) {
      const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const sockaddr_un address = stream_address(directory);
      if (::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
          ::listen(listener, workers) != 0) {
        throw std::system_error(errno, std::generic_category(), "bind");
      }
      for (int i = 0; i < workers; ++i) {
        fds_.push_back(::accept(listener, nullptr, nullptr));
        ::setsockopt(fds_.back(), SOL_SOCKET, SO_SNDBUF, &kStreamBuffer, sizeof kStreamBuffer);
      }
      ::close(listener);
    } else {
      pub_.set(zmq::sockopt::linger, 0);
      pub_.bind("ipc://" + directory + "/weights");
      // A subscriber that is not there yet misses messages: empty ones until each has answered.
      std::vector<bool> there(static_cast<std::size_t>(workers), false);
      acks_.set(zmq::sockopt::rcvtimeo, 50);
      for (int missing = workers; missing != 0;) {
        pub_.send(zmq::message_t(), zmq::send_flags::none);
        zmq::message_t ack;
        if (!acks_.recv(ack)) continue;
        const auto worker = static_cast<std::size_t>(std::stoi(ack.to_string()));
        if (!there.at(worker)) --missing;
        there.at(worker) = true;
      }
      acks_.set(zmq::sockopt::rcvtimeo, 200);
      for (zmq::message_t late; acks_.recv(late);) {
      }
    }
    acks_.set(zmq::sockopt::rcvtimeo, 60000);
  }
  ~RawSender() {
    for (int fd : fds_) ::close(fd);
  }
  RawSender(const RawSender&) = delete;
  RawSender& operator=(const RawSender&) = delete;

  void send(const std::vector<torch::Tensor>& tensors) {
    if (!fds_.empty()) {
      std::vector<std::thread> threads;
      for (int fd : fds_) {
        threads.emplace_back([&tensors, fd] {
          for (const auto& t : tensors) write_all(fd, t.const_data_ptr(), t.nbytes());
        });
      }
      for (auto& thread : threads) thread.join();
      return;
    }
    std::size_t bytes = 0;
    for (const auto& t : tensors) bytes += t.nbytes();
    zmq::message_t message(bytes);
    auto* out = static_cast<char*>(message.data());
    for (const auto& t : tensors) {
      std::memcpy(out, t.const_data_ptr(), t.nbytes());
      out += t.nbytes();
    }
    pub_.send(message, zmq::send_flags::none);
  }

  void wait_applied() {
    for (int i = 0; i < workers_; ++i) {
      zmq::message_t ack;
      if (!acks_.recv(ack)) throw std::runtime_error("a worker did not acknowledge");
    }
  }

 private:
  int workers_;
  zmq::context_t context_{1};
  zmq::socket_t pub_{context_, zmq::socket_type::pub};
  zmq::socket_t acks_{context_, zmq::socket_type::pull};
  std::vector<int> fds_;
};

/// Takes versions into `tensors` until the sender is gone or the process is ended.
inline void receive_raw(const std::string& directory, int worker, bool stream,
                        const std::vector<torch::Tensor>& tensors) {
  zmq::context_t context{1};
  zmq::socket_t acks{context, zmq::socket_type::push};
  acks.set(zmq::sockopt::linger, 0);
  acks.connect("ipc://" + directory + "/acks");
  const std::string name = std::to_string(worker);
  const auto acknowledge = [&] { acks.send(zmq::buffer(name), zmq::send_flags::none); };
  if (stream) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kStreamBuffer, sizeof kStreamBuffer);
    const sockaddr_un address = stream_address(directory);
    while (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      std::this_thread::yield();
    }
    for (;;) {
      for (const auto& t : tensors) {
        if (!read_all(fd, t.mutable_data_ptr(), t.nbytes())) {
          ::close(fd);
          return;
        }
      }
      acknowledge();
    }
  }
  zmq::socket_t sub{context, zmq::socket_type::sub};
  sub.set(zmq::sockopt::linger, 0);
  sub.set(zmq::sockopt::subscribe, "");
  sub.connect("ipc://" + directory + "/weights");
  for (;;) {
    zmq::message_t message;
    if (!sub.recv(message)) continue;
    const auto* in = static_cast<const char*>(message.data());
    for (const auto& t : tensors) {
      if (message.size() == 0) break;
      std::memcpy(t.mutable_data_ptr(), in, t.nbytes());
      in += t.nbytes();
    }
    acknowledge();
  }
}

}  // namespace bench
