#include "stream/coordinator_link.hpp"

#include <span>
#include <utility>

#include "base/log.hpp"
#include "protocol/wire.hpp"
#include "stream/rendezvous.hpp"

namespace weightcast::stream {
namespace {
constexpr auto kLookPeriod = std::chrono::milliseconds(50);
constexpr int kMaxDroppedACall = 64;  ///< by one call of receive()
}  // namespace

void CoordinatorLink::seek(Clock::time_point now, const std::function<bool()>& lost) {
  if (now < next_look_) return;
  next_look_ = now + kLookPeriod;
  if (lost()) {
    client_.reset();
    connected_to_.clear();
  }
  std::string endpoint;
  if (!options_.coordinator.empty()) {
    endpoint = "tcp://" + options_.coordinator;
  } else if (auto announcement = read_announcement(options_.place)) {
    endpoint = std::move(announcement->endpoint);
  }
  if (endpoint.empty() || endpoint == connected_to_) return;
  auto client = ControlClient::connect(endpoint, {}, options_.keys);
  if (!client) {
    base::log(LogLevel::kWarn, "connect_failed", {{"why", client.status().to_string()}});
    return;
  }
  client_ = std::move(*client);
  connected_to_ = std::move(endpoint);
}

std::optional<protocol::Message> CoordinatorLink::receive() {
  for (int i = 0; client_ && i < kMaxDroppedACall; ++i) {
    const auto received = client_->receive();
    if (!received) break;
    auto message =
        protocol::decode(std::as_bytes(std::span(received->bytes.data(), received->bytes.size())));
    if (message) return std::move(*message);
    malformed_.fetch_add(1, std::memory_order_relaxed);
  }
  return std::nullopt;
}

void CoordinatorLink::send(const protocol::Message& message) {
  if (!client_) return;
  [[maybe_unused]] const Status sent =
      client_->send(std::span<const char>(protocol::encode(message)));
}

void CoordinatorLink::close(std::chrono::milliseconds linger) noexcept {
  if (client_) client_->close(linger);
}

}  // namespace weightcast::stream
