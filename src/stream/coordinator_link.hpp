// A member's connection to its coordinator, which it finds and keeps.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "protocol/message.hpp"
#include "stream/control_socket.hpp"

namespace weightcast::stream {

struct LinkOptions {
  std::string place;        ///< the meeting place, where the coordinator announces itself
  std::string coordinator;  ///< "host:port": it is there and nowhere else; empty: as announced
  Keys keys;                ///< needed with `coordinator`
};

/// Finds the coordinator by its announcement on this host, or connects to a fixed place, and says
/// and hears messages. Thread safety: one thread; malformed() from any.
class CoordinatorLink {
 public:
  explicit CoordinatorLink(LinkOptions options) : options_(std::move(options)) {}

  /// For a member that has not joined: connects where it is not connected to what is there now.
  /// Looks at most every 50 ms, and asks `lost` only then. Never waits.
  /// @param lost whether the connection that stands is of no use, and must be made anew
  void seek(Clock::time_point now, const std::function<bool()>& lost);

  /// The next message, without waiting. Those that cannot be read are dropped and counted.
  std::optional<protocol::Message> receive();
  /// Never waits. What is not sent, because there is no connection (yet), is said again by the
  /// machines' heartbeats.
  void send(const protocol::Message& message);

  std::uint64_t malformed() const noexcept { return malformed_.load(std::memory_order_relaxed); }
  /// For wait_for_work; null where there is none.
  void* handle() noexcept { return client_ ? client_->handle() : nullptr; }
  /// Waits for at most `linger` until what was said has gone out.
  void close(std::chrono::milliseconds linger) noexcept;

 private:
  const LinkOptions options_;
  std::unique_ptr<ControlClient> client_;
  std::string connected_to_;
  Clock::time_point next_look_;
  std::atomic<std::uint64_t> malformed_{0};
};

}  // namespace weightcast::stream
