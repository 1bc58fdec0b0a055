// Short words for tests of the state machines: messages, shares, and what lies in an outbox.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "protocol/coordinator.hpp"
#include "protocol/message.hpp"

namespace weightcast::protocol::test {

using namespace std::chrono_literals;

inline const Run kRun{100, 1};
inline const Run kNoRun{};
inline const Run kOlderRun{50, 1};
inline const Run kNewerRun{200, 1};
inline constexpr Clock::time_point kStart = Clock::time_point{} + 1000s;

inline Member rank_member(std::uint32_t rank, std::uint64_t incarnation = 1) {
  return {Role::kSource, "rank-" + std::to_string(rank), incarnation};
}
inline Member engine_member(const std::string& name, std::uint64_t incarnation = 1) {
  return {Role::kReceiver, name, incarnation};
}

/// A share of one tensor, "w<rank>".
inline Sealed sealed_share(std::uint32_t rank, std::uint64_t grant, std::uint64_t point) {
  Sealed sealed;
  sealed.grant_ordinal = grant;
  sealed.point = point;
  sealed.layout_fingerprint = 7;
  sealed.share.rank = rank;
  sealed.share.object = "slot-" + std::to_string(rank);
  sealed.share.generation = point;
  sealed.share.payload_bytes = 64;
  plan::ShareEntry entry;
  entry.info.name = "w" + std::to_string(rank);
  entry.info.shape = {16};
  sealed.share.entries = {entry};
  return sealed;
}

/// The bodies of one kind in a list of messages, oldest first.
template <class Body>
std::vector<Body> all_of(const std::vector<Message>& messages) {
  std::vector<Body> bodies;
  for (const Message& message : messages) {
    if (const auto* body = std::get_if<Body>(&message.body)) bodies.push_back(*body);
  }
  return bodies;
}

/// A coordinator with the members that talk to it: each by a peer of its own, 1 + rank for
/// sources, 100 and up for receivers.
class Hall {
 public:
  explicit Hall(CoordinatorConfig config = {}) : coordinator_(complete(std::move(config)), kStart) {}

  Coordinator& coordinator() { return coordinator_; }
  Clock::time_point now() const { return now_; }

  void pass(Duration time) {
    // In steps, as the loop ticks: one long step would look like a pause of this process.
    for (const Clock::time_point end = now_ + time; now_ < end;) {
      now_ = std::min(end, now_ + Duration(50ms));
      for (const auto& [peer, message] : beating_) coordinator_.receive(now_, peer, again(message));
      coordinator_.tick(now_);
      collect();
    }
  }

  void say(Peer peer, const Member& member, Body body, const Run& run = kRun) {
    coordinator_.receive(now_, peer, Message{run, member, std::move(body)});
    collect();
  }

  void join_source(std::uint32_t rank, std::uint32_t world_size, std::uint64_t next_point = 1) {
    Hello hello;
    hello.rank = rank;
    hello.world_size = world_size;
    hello.launch = "launch";
    hello.policy = "actor";
    hello.next_point = next_point;
    say(1 + rank, rank_member(rank), hello, Run{});
  }
  void join_receiver(const std::string& name, Peer peer, std::uint64_t incarnation = 1) {
    Hello hello;
    hello.policy = "actor";
    say(peer, engine_member(name, incarnation), hello, Run{});
  }

  /// Says it now and with every step of pass(), as a living member does.
  void state(std::uint32_t rank, SourceState state) {
    state.sequence = ++sequence_;
    beating_[1 + rank] = Message{kRun, rank_member(rank), state};
    say(1 + rank, rank_member(rank), state);
  }
  void state(const std::string& name, Peer peer, ReceiverState state,
             std::uint64_t incarnation = 1) {
    state.sequence = ++sequence_;
    beating_[peer] = Message{kRun, engine_member(name, incarnation), state};
    say(peer, engine_member(name, incarnation), state);
  }
  void fall_silent(Peer peer) { beating_.erase(peer); }

  SourceState ready(std::uint64_t next_point, std::uint64_t grant = 0) const {
    SourceState state;
    state.next_point = next_point;
    state.ready = true;
    state.grant_ordinal = grant;
    return state;
  }

  /// The newest message of one kind that was said to `peer`.
  template <class Body>
  std::optional<Body> last(Peer peer) const {
    std::optional<Body> found;
    for (const Outgoing& out : said_) {
      if (out.peer != peer) continue;
      if (const auto* body = std::get_if<Body>(&out.message.body)) found = *body;
    }
    return found;
  }
  template <class Body>
  std::size_t count(Peer peer) const {
    std::size_t count = 0;
    for (const Outgoing& out : said_) {
      count += out.peer == peer && std::holds_alternative<Body>(out.message.body) ? 1 : 0;
    }
    return count;
  }
  void forget() { said_.clear(); }

  /// One rank seals the version of the grant that is open. @return its number
  std::uint64_t publish(std::uint64_t point) {
    const auto orders = last<SourceOrders>(1);
    say(1, rank_member(0), sealed_share(0, orders->grant_ordinal, point));
    return point;
  }

 private:
  static CoordinatorConfig complete(CoordinatorConfig config) {
    config.run = kRun;
    config.launch = "launch";
    config.policy = "actor";
    return config;
  }
  Message again(Message message) {
    if (auto* source = std::get_if<SourceState>(&message.body)) source->sequence = ++sequence_;
    if (auto* receiver = std::get_if<ReceiverState>(&message.body)) {
      receiver->sequence = ++sequence_;
    }
    return message;
  }
  void collect() {
    for (Outgoing& out : coordinator_.take_outbox()) said_.push_back(std::move(out));
    for (Note& note : coordinator_.take_notes()) notes_.push_back(std::move(note));
  }

  Coordinator coordinator_;
  Clock::time_point now_ = kStart;
  std::uint64_t sequence_ = 0;
  std::map<Peer, Message> beating_;
  std::vector<Outgoing> said_;

 public:
  std::vector<Note> notes_;
};

}  // namespace weightcast::protocol::test
