#include "stream/coordinator_servers.hpp"

#include <span>
#include <utility>

namespace weightcast::stream {
namespace {
constexpr int kMaxDroppedOfOne = 64;  ///< of one server, by one call of receive()
}  // namespace

std::optional<protocol::Peer> peer_number(std::size_t server, const std::string& routing_id) {
  if (routing_id.empty() || routing_id.size() > 7 || server > 15) return std::nullopt;
  protocol::Peer peer = 0;
  for (char c : routing_id) peer = peer << 8 | static_cast<unsigned char>(c);
  return peer << 8 | server << 4 | routing_id.size();
}

std::size_t server_of(protocol::Peer peer) noexcept { return peer >> 4 & 0xf; }

std::string routing_id_of(protocol::Peer peer) {
  std::string id(peer & 0xf, '\0');
  for (std::size_t i = id.size(); i-- > 0;) {
    peer >>= 8;
    id[i] = static_cast<char>(peer & 0xff);
  }
  return id;
}

Result<CoordinatorServers> CoordinatorServers::bind(const std::string& endpoint,
                                                    const std::string& listen, const Keys& keys) {
  CoordinatorServers servers;
  auto local = ControlServer::bind(endpoint);
  if (!local) return local.status();
  servers.servers_[0] = std::move(*local);
  if (listen.empty()) return servers;
  auto remote = ControlServer::bind("tcp://" + listen, {}, keys);
  if (!remote) {
    return Status(remote.status().code(),
                  "option listen = \"" + listen + "\": " + remote.status().message());
  }
  servers.servers_[1] = std::move(*remote);
  servers.listening_ = servers.servers_[1]->endpoint();
  return servers;
}

std::optional<FromPeer> CoordinatorServers::receive() {
  for (std::size_t asked = 0; asked < servers_.size(); ++asked) {
    // Each has a say in turn: a flood over one does not keep the other from being heard.
    const std::size_t server = turn_;
    turn_ = (turn_ + 1) % servers_.size();
    if (!servers_[server]) continue;
    for (int i = 0; i < kMaxDroppedOfOne; ++i) {
      auto received = servers_[server]->receive();
      if (!received) break;
      const auto peer = peer_number(server, received->peer);
      if (peer) return FromPeer{*peer, std::move(received->bytes), received->role};
      ++refused_;
    }
  }
  return std::nullopt;
}

Status CoordinatorServers::send(protocol::Peer peer, const protocol::Message& message) {
  const std::size_t server = server_of(peer);
  if (server >= servers_.size() || !servers_[server]) {
    return {Code::kUnavailable, "the member's connection is gone"};
  }
  return servers_[server]->send(routing_id_of(peer),
                                std::span<const char>(protocol::encode(message)));
}

std::uint64_t CoordinatorServers::refused() const noexcept {
  return refused_ + (servers_[1] ? servers_[1]->refused_connections() : 0);
}

std::array<void*, 2> CoordinatorServers::handles() const noexcept {
  std::array<void*, 2> handles{};
  for (std::size_t i = 0; i < servers_.size(); ++i) {
    handles[i] = servers_[i] ? servers_[i]->handle() : nullptr;
  }
  return handles;
}

void CoordinatorServers::close(std::chrono::milliseconds linger) noexcept {
  for (auto& server : servers_) {
    if (server) server->close(linger);
  }
  if (servers_[1]) refused_ += servers_[1]->refused_connections();
  servers_ = {};
}

}  // namespace weightcast::stream
