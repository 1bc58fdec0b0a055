#include "trajectory_socket.hpp"

#include <cstdint>
#include <utility>

#include <zmq.hpp>

namespace rl_loop {
namespace {

// A queue of two: more would only hold trajectories that are stale when they are read.
constexpr int kQueueLength = 2;
constexpr std::int64_t kMaxMessageBytes = std::int64_t{64} << 20;

}  // namespace

std::string trajectory_endpoint(const std::string& directory, int rank) {
  return "ipc://" + directory + "/trajectories-" + std::to_string(rank);
}

struct TrajectorySender::Sockets {
  zmq::context_t context{1};
  std::vector<zmq::socket_t> ranks;
};

TrajectorySender::TrajectorySender(const std::string& directory, int trainer_ranks)
    : sockets_(std::make_unique<Sockets>()) {
  for (int rank = 0; rank < trainer_ranks; ++rank) {
    zmq::socket_t socket(sockets_->context, zmq::socket_type::push);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, kQueueLength);
    // Without this the socket queues for a rank that does not exist, and turns go to waste.
    socket.set(zmq::sockopt::immediate, 1);
    socket.set(zmq::sockopt::reconnect_ivl_max, 500);
    socket.connect(trajectory_endpoint(directory, rank));
    sockets_->ranks.push_back(std::move(socket));
  }
}

TrajectorySender::~TrajectorySender() = default;

bool TrajectorySender::send(std::span<const std::byte> message, Clock::time_point deadline) {
  auto& ranks = sockets_->ranks;
  do {
    for (std::size_t attempt = 0; attempt < ranks.size(); ++attempt) {
      zmq::socket_t& socket = ranks[next_rank_];
      // The rank whose turn it is gets a share of the time that is left before it is passed over.
      socket.set(zmq::sockopt::sndtimeo,
                 static_cast<int>(remaining(deadline).count() /
                                  static_cast<std::int64_t>(ranks.size() - attempt)));
      next_rank_ = (next_rank_ + 1) % ranks.size();
      if (socket.send(zmq::const_buffer(message.data(), message.size()), zmq::send_flags::none)) {
        return true;
      }
    }
  } while (Clock::now() < deadline);
  return false;
}

struct TrajectoryReceiver::Socket {
  zmq::context_t context{1};
  zmq::socket_t pull{context, zmq::socket_type::pull};
};

TrajectoryReceiver::TrajectoryReceiver(const std::string& directory, int rank)
    : socket_(std::make_unique<Socket>()) {
  socket_->pull.set(zmq::sockopt::linger, 0);
  socket_->pull.set(zmq::sockopt::rcvhwm, kQueueLength);
  socket_->pull.set(zmq::sockopt::maxmsgsize, kMaxMessageBytes);
  socket_->pull.bind(trajectory_endpoint(directory, rank));
}

TrajectoryReceiver::~TrajectoryReceiver() = default;

std::optional<std::vector<std::byte>> TrajectoryReceiver::receive(std::chrono::milliseconds wait) {
  zmq::message_t message;
  socket_->pull.set(zmq::sockopt::rcvtimeo, static_cast<int>(wait.count()));
  if (!socket_->pull.recv(message, zmq::recv_flags::none)) return std::nullopt;
  const auto* bytes = static_cast<const std::byte*>(message.data());
  return std::vector<std::byte>(bytes, bytes + message.size());
}

}  // namespace rl_loop
