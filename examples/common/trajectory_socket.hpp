#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "clock.hpp"

namespace rl_loop {

/// Where trainer rank `rank` listens for trajectories: a Unix socket in `directory`.
[[nodiscard]] std::string trajectory_endpoint(const std::string& directory, int rank);

/// A worker's end: hands whole messages to the trainer ranks in turn. Not thread-safe.
class TrajectorySender {
 public:
  /// Does not wait for the trainer: sockets connect whenever it appears.
  /// @throw zmq::error_t when a socket cannot be made.
  TrajectorySender(const std::string& directory, int trainer_ranks);
  ~TrajectorySender();

  /// Sends to the next rank, or to another one if that rank does not take it by `deadline`.
  /// @return false when no rank took it; the message is dropped then, since it would be stale.
  bool send(std::span<const std::byte> message, Clock::time_point deadline);

 private:
  struct Sockets;
  std::unique_ptr<Sockets> sockets_;
  std::size_t next_rank_ = 0;
};

/// A trainer rank's end: gives out messages in the order of their arrival. Not thread-safe.
class TrajectoryReceiver {
 public:
  /// Binds this rank's endpoint.
  /// @throw zmq::error_t when the endpoint cannot be bound.
  TrajectoryReceiver(const std::string& directory, int rank);
  ~TrajectoryReceiver();

  /// Waits for a message at most so long.
  /// @return nothing where none came.
  [[nodiscard]] std::optional<std::vector<std::byte>> receive(std::chrono::milliseconds wait);

 private:
  struct Socket;
  std::unique_ptr<Socket> socket_;
};

}  // namespace rl_loop
