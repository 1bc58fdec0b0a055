#include "transport/tcp/server_peers.hpp"

#include <utility>

namespace weightcast::transport {

ServerPeers::Peer::Key ServerPeers::key_of(const SegmentAddress& address) {
  return {address.object, address.version, address.generation, address.payload_bytes};
}

ServerPeers::Peer* ServerPeers::find_or_add(const std::string& id, Clock::time_point now) {
  auto found = peers_.find(id);
  if (found == peers_.end()) {
    if (peers_.size() >= limits_.peers) return nullptr;
    found = peers_.try_emplace(id).first;
  }
  found->second.heard = now;
  return &found->second;
}

Result<std::shared_ptr<Segment>> ServerPeers::hold(Peer& peer, const SegmentAddress& address,
                                                   Clock::time_point now) {
  const Peer::Key key = key_of(address);
  if (const auto held = peer.holds.find(key); held != peer.holds.end()) {
    held->second.heard = now;
    return held->second.segment;
  }
  if (peer.holds.size() >= limits_.holds_a_peer) {
    return Status(Code::kExhausted,
                  "expected a peer to hold at most " + std::to_string(limits_.holds_a_peer) +
                      " versions at once; it asks for one more: release some first");
  }
  auto segment = store_->hold(address);
  if (!segment) return segment.status();
  if ((*segment)->view().size() < address.payload_bytes) {
    return Status(Code::kInternal, "the store shows fewer bytes than the version has");
  }
  peer.holds.emplace(key, Peer::Hold{*segment, now});
  return *segment;
}

void ServerPeers::release(Peer& peer, const SegmentAddress& address) {
  const Peer::Key key = key_of(address);
  peer.holds.erase(key);
  std::erase_if(peer.asks, [&](const Ask& ask) { return key_of(ask.request.segment) == key; });
}

void ServerPeers::expire(Clock::time_point now) {
  for (auto at = peers_.begin(); at != peers_.end();) {
    Peer& peer = at->second;
    std::erase_if(peer.holds,
                  [&](const auto& entry) { return now - entry.second.heard > limits_.silence; });
    // Who is silent for so long does not read either.
    const bool silent = now - peer.heard > limits_.silence;
    if (silent) peer.asks.clear();
    at = silent && peer.holds.empty() ? peers_.erase(at) : std::next(at);
  }
}

void ServerPeers::hear_all(Clock::time_point now) {
  for (auto& [id, peer] : peers_) {
    peer.heard = now;
    for (auto& [key, hold] : peer.holds) hold.heard = now;
  }
}

std::size_t ServerPeers::holds() const noexcept {
  std::size_t count = 0;
  for (const auto& [id, peer] : peers_) count += peer.holds.size();
  return count;
}

}  // namespace weightcast::transport
