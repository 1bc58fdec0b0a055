#include "subscriber/sources.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace weightcast::subscriber {
namespace {

const char* name_of(TransportChoice choice) {
  switch (choice) {
    case TransportChoice::kAuto: return "auto";
    case TransportChoice::kShm: return "shm";
    case TransportChoice::kTcp: return "tcp";
    case TransportChoice::kCudaIpc: return "cuda_ipc";
    case TransportChoice::kNccl: return "nccl";
  }
  return "?";
}

std::string lane_key(std::uint32_t rank, const ShareSource& source) {
  const std::string name = name_of(source.transport);
  // A lane within this host follows one source; one to an endpoint serves all that lies there.
  if (source.transport == TransportChoice::kTcp) return name + " " + source.address.endpoint;
  return name + " " + std::to_string(rank);
}

/// What reads the share on its own host.
TransportChoice local_way(const plan::Share& share) {
  return share.device.empty() ? TransportChoice::kShm : TransportChoice::kCudaIpc;
}

Status no_way(const plan::Share& share, TransportChoice wanted, const std::string& host) {
  const std::string who = "the share of rank " + std::to_string(share.rank);
  const bool on_device = !share.device.empty();
  const std::string where =
      who + " lies in " + (on_device ? "device memory (" + share.device + ")" : "the shared memory") +
      " of host " + share.host + ", this is host " + host;
  const bool here = share.host.empty() || share.host == host;
  if (here && on_device && wanted == TransportChoice::kShm) {
    return Status(Code::kUnavailable, who + " lies in device memory (" + share.device +
                                          "), which transport shm does not read: set transport to "
                                          "auto or cuda_ipc, or the trainer's staging to host");
  }
  if (here && !on_device && wanted == TransportChoice::kCudaIpc) {
    return Status(Code::kUnavailable, who + " lies in shared memory, which transport cuda_ipc does "
                                            "not read: set transport to auto or shm, or the "
                                            "trainer's staging to device");
  }
  if (wanted == TransportChoice::kNccl) {
    return Status(Code::kUnavailable,
                  who + " does not come over nccl: set transport to auto, and see the trainer's log "
                        "for why it offers none");
  }
  if (wanted == TransportChoice::kShm || wanted == TransportChoice::kCudaIpc) {
    return Status(Code::kUnavailable, where + ": transport " + name_of(wanted) +
                                          " reaches one host only; set transport to auto or tcp");
  }
  if (on_device) {
    return Status(Code::kUnavailable, (here ? who + " lies in device memory" : where) +
                                          " and is not served over tcp: set the trainer's staging "
                                          "to host");
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
  const bool network_allowed = wanted == TransportChoice::kAuto || wanted == TransportChoice::kTcp;
  ShareSource source;
  source.address.object = share.object;
  source.address.version = version;
  source.address.generation = share.generation;
  source.address.payload_bytes = share.payload_bytes;
  if (!relay.empty()) {
    if (!network_allowed) {
      return Status(Code::kUnavailable, "the engine at " + relay +
                                            " is read over tcp, but transport " + name_of(wanted) +
                                            " is set; set transport to auto or tcp");
    }
    source.transport = TransportChoice::kTcp;
    source.address.endpoint = relay;
    source.address.from_engine = true;
    return source;
  }
  const bool here = share.host.empty() || share.host == host;
  const TransportChoice local = local_way(share);
  if (here && (wanted == TransportChoice::kAuto || wanted == local)) {
    source.transport = local;
    source.address.device = share.device;
    source.address.device_memory = share.device_memory;
    source.address.device_offset = share.device_offset;
    return source;
  }
  if (share.endpoint.empty() || !network_allowed) return no_way(share, wanted, host);
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
    const TransportSet::Open* open = nullptr;
    switch (choice) {
      case TransportChoice::kShm: open = &transports_.shm; break;
      case TransportChoice::kTcp: open = &transports_.tcp; break;
      case TransportChoice::kCudaIpc: open = &transports_.cuda_ipc; break;
      case TransportChoice::kAuto:
      case TransportChoice::kNccl: break;
    }
    if (open == nullptr || !*open) {
      return Status(Code::kUnavailable,
                    std::string("this engine has no transport ") + name_of(choice));
    }
    auto opened = (*open)();
    if (!opened) return opened.status();
    known = std::move(*opened);
  }
  return known.get();
}

Result<Sources::OwnLane*> Sources::lane_to(std::uint32_t rank, const ShareSource& source) {
  OwnLane& own = lanes_[lane_key(rank, source)];
  if (!own.lane) {
    auto transport = transport_of(source.transport);
    if (!transport) return transport.status();
    auto opened = (*transport)->open_lane(lane_options_);
    if (!opened) return opened.status();
    own.lane = std::move(*opened);
    own.awaits_peer = (*transport)->reach() == transport::Reach::kNetwork;
  }
  return &own;
}

Result<OpenShare> Sources::open(std::uint32_t rank, const ShareSource& source) {
  const auto own = lane_to(rank, source);
  if (!own) return own.status();
  auto segment = (*own)->lane->acquire(source.address);
  if (!segment) return segment.status();
  return OpenShare{(*own)->lane.get(), std::move(*segment), (*own)->awaits_peer};
}

Result<std::shared_ptr<transport::Draft>> Sources::follow(std::uint32_t rank,
                                                          const ShareSource& source) {
  const auto own = lane_to(rank, source);
  if (!own) return own.status();
  return (*own)->lane->follow(source.address);
}

void Sources::drop_peer_lanes() {
  std::erase_if(lanes_, [](const auto& lane) { return lane.second.awaits_peer; });
}

std::string describe_sources(const std::vector<ShareSource>& sources, const std::string& relay) {
  if (!relay.empty()) return "tcp from " + relay;
  std::set<TransportChoice> used;
  for (const ShareSource& source : sources) used.insert(source.transport);
  std::string text;
  for (const TransportChoice choice : {TransportChoice::kCudaIpc, TransportChoice::kNccl,
                                       TransportChoice::kShm, TransportChoice::kTcp}) {
    if (!used.contains(choice)) continue;
    if (!text.empty()) text += " and ";
    text += name_of(choice);
  }
  return text.empty() ? "shm" : text;
}

}  // namespace weightcast::subscriber
