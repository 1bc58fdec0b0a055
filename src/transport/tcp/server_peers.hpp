// Who asks a server for buckets: what each holds, what it still waits for, and the bounds on both.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "transport/tcp/wire.hpp"
#include "transport/transport.hpp"

namespace weightcast::transport {

/// What a server lets its peers take up.
struct TcpServerLimits {
  std::uint32_t peers = 256;
  std::uint32_t holds_a_peer = 16;                         ///< versions held at once
  std::uint32_t requests_a_peer = 128;                     ///< waiting; and replies on their way
  std::uint64_t bytes_a_peer = std::uint64_t{64} << 20;    ///< on their way; they lie in the slots
  std::uint64_t gathered_bytes = std::uint64_t{64} << 20;  ///< on their way, copied out of strips
  std::uint32_t requests_a_turn = 64;          ///< taken in before replies are sent again
  Duration silence = std::chrono::seconds(3);  ///< after which what a peer holds is let go
};

/// Replies on their way to one peer. Counted down by ZeroMQ's threads.
struct UnderWay {
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint32_t> replies{0};
};

/// A bucket that a peer waits for. Holds what it will be taken from.
struct Ask {
  DataRequest request;
  std::shared_ptr<Segment> segment;
};

/// Thread safety: one thread.
class ServerPeers {
 public:
  struct Peer {
    std::deque<Ask> asks;
    std::shared_ptr<UnderWay> under_way = std::make_shared<UnderWay>();
    Clock::time_point heard;

   private:
    friend class ServerPeers;
    using Key = std::tuple<std::string, Version, std::uint64_t, std::uint64_t>;
    struct Hold {
      std::shared_ptr<Segment> segment;
      Clock::time_point heard;
    };
    std::map<Key, Hold> holds;
  };

  ServerPeers(const TcpServerLimits& limits, std::shared_ptr<SegmentStore> store)
      : limits_(limits), store_(std::move(store)) {}

  /// The peer of that routing id; null where there are too many.
  Peer* find_or_add(const std::string& id, Clock::time_point now);

  /// What the peer holds of that address; takes hold of it where it is new.
  /// @return what the store says, kExhausted where the peer holds too much
  Result<std::shared_ptr<Segment>> hold(Peer& peer, const SegmentAddress& address,
                                        Clock::time_point now);
  /// Lets go, and forgets what waits for it.
  void release(Peer& peer, const SegmentAddress& address);

  /// Lets go of what nobody has asked about for limits.silence, and forgets who has nothing left.
  void expire(Clock::time_point now);
  /// Gives everybody a fresh silence: this process itself was not running.
  void hear_all(Clock::time_point now);
  void clear() { peers_.clear(); }

  std::map<std::string, Peer>& all() noexcept { return peers_; }
  std::size_t holds() const noexcept;

 private:
  static Peer::Key key_of(const SegmentAddress& address);

  const TcpServerLimits limits_;
  const std::shared_ptr<SegmentStore> store_;
  std::map<std::string, Peer> peers_;
};

}  // namespace weightcast::transport
