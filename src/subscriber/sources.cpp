#include "subscriber/sources.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace weightcast::subscriber {
namespace {

std::string lane_key(std::uint32_t rank, const ShareSource& source) {
  // A lane of shared memory follows one source; one to an endpoint serves all that lies there.
  if (source.transport == TransportChoice::kShm) return "shm " + std::to_string(rank);
  return "tcp " + source.address.endpoint;
}

Status no_way(const plan::Share& share, TransportChoice wanted, const std::string& host) {
  const std::string who = "the share of rank " + std::to_string(share.rank);
  const std::string where = who + " lies in the shared memory of host " + share.host +
                            ", this is host " + host;
  if (wanted == TransportChoice::kShm) {
    return Status(Code::kUnavailable, where + ": transport shm reaches one host only; set "
                                              "transport to auto or tcp");
  }
  const std::string remedy = ": the trainer serves no tcp; set its option listen (and transport "
                             "auto or tcp)";
  if (wanted == TransportChoice::kTcp) {
    return Status(Code::kUnavailable, who + " has no endpoint for transport tcp" + remedy);
  }
  return Status(Code::kUnavailable, where + ", and has no endpoint" + remedy);
}

}  // namespace

Result<ShareSource> choose_source(const plan::Share& share, const Version& version,
                                  const std::string& relay, TransportChoice wanted,
                                  const std::string& host) {
  ShareSource source;
  source.address = {share.object, version, share.generation, share.payload_bytes};
  if (!relay.empty()) {
    if (wanted == TransportChoice::kShm) {
      return Status(Code::kUnavailable, "the engine at " + relay +
                                            " is read over tcp, but transport shm is set; set "
                                            "transport to auto or tcp");
    }
    source.transport = TransportChoice::kTcp;
    source.address.endpoint = relay;
    source.address.from_engine = true;
    return source;
  }
  const bool here = share.host.empty() || share.host == host;
  if (here && wanted != TransportChoice::kTcp) return source;
  if (share.endpoint.empty() || wanted == TransportChoice::kShm) {
    return no_way(share, wanted, host);
  }
  source.transport = TransportChoice::kTcp;
  source.address.endpoint = share.endpoint;
  return source;
}

Sources::Sources(TransportSet transports, TransportChoice wanted,
                 transport::LaneOptions lane_options)
    : transports_(std::move(transports)), wanted_(wanted), lane_options_(lane_options) {}

Result<std::vector<ShareSource>> Sources::choose(const Version& version,
                                                 const plan::Manifest& manifest,
                                                 const std::string& relay) {
  std::vector<ShareSource> chosen;
  std::set<std::string> keys;
  for (const plan::Share& share : manifest.shares) {
    auto source = choose_source(share, version, relay, wanted_, transports_.host);
    if (!source) return source.status();
    keys.insert(lane_key(share.rank, *source));
    chosen.push_back(std::move(*source));
  }
  std::erase_if(lanes_, [&](const auto& lane) { return !keys.contains(lane.first); });
  return chosen;
}

Result<transport::Transport*> Sources::transport_of(TransportChoice choice) {
  std::shared_ptr<transport::Transport>& known = opened_[choice];
  if (!known) {
    const TransportSet::Open& open =
        choice == TransportChoice::kShm ? transports_.shm : transports_.tcp;
    if (!open) {
      return Status(Code::kUnavailable, std::string("this engine has no transport ") +
                                            (choice == TransportChoice::kShm ? "shm" : "tcp"));
    }
    auto opened = open();
    if (!opened) return opened.status();
    known = std::move(*opened);
  }
  return known.get();
}

Result<OpenShare> Sources::open(std::uint32_t rank, const ShareSource& source) {
  OwnLane& own = lanes_[lane_key(rank, source)];
  if (!own.lane) {
    auto transport = transport_of(source.transport);
    if (!transport) return transport.status();
    auto opened = (*transport)->open_lane(lane_options_);
    if (!opened) return opened.status();
    own.lane = std::move(*opened);
    own.awaits_peer = (*transport)->reach() == transport::Reach::kNetwork;
  }
  auto segment = own.lane->acquire(source.address);
  if (!segment) return segment.status();
  return OpenShare{own.lane.get(), std::move(*segment), own.awaits_peer};
}

void Sources::drop_peer_lanes() {
  std::erase_if(lanes_, [](const auto& lane) { return lane.second.awaits_peer; });
}

std::string describe_sources(const std::vector<ShareSource>& sources, const std::string& relay) {
  if (!relay.empty()) return "tcp from " + relay;
  const auto over = [&](TransportChoice choice) {
    return std::any_of(sources.begin(), sources.end(),
                       [&](const ShareSource& source) { return source.transport == choice; });
  };
  if (!over(TransportChoice::kTcp)) return "shm";
  return over(TransportChoice::kShm) ? "shm and tcp" : "tcp";
}

}  // namespace weightcast::subscriber
