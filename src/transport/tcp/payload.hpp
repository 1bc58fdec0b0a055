// A bucket's bytes on their way out.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>
#include <zmq.hpp>

#include "base/waker.hpp"
#include "transport/tcp/server_peers.hpp"
#include "transport/tcp/wire.hpp"

namespace weightcast::transport {

/// All replies of a server that are on their way, and how its thread hears that some have gone.
struct Departures {
  std::atomic<std::uint64_t> gathered{0};  ///< bytes
  std::atomic<std::uint64_t> replies{0};
  std::atomic<bool> wanted{false};  ///< the thread waits for one to go
  base::Waker waker;
};

/// The bytes of `ask` as one message that holds their segment until ZeroMQ is done with it: in
/// place where they lie together, else copied.
/// @param digest out: of the bytes, where the request wants it
/// @param spoil flips a bit behind the digest's back (in a copy)
zmq::message_t make_payload(const Ask& ask, std::shared_ptr<UnderWay> under_way,
                            std::shared_ptr<Departures> departures, bool spoil,
                            std::optional<base::Digest>& digest);

/// Whether make_payload() copies.
bool is_gathered(const DataRequest& request) noexcept;

}  // namespace weightcast::transport
