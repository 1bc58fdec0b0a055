#include "subscriber/sources.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "base/log.hpp"
#include "stream/nccl_identity.hpp"

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

/// Why a share cannot come over nccl; empty: it can.
std::string why_not_nccl(const plan::Share& share, const NcclWay& nccl) {
  if (share.nccl_device.empty() || share.endpoint.empty()) return "its trainer offers none";
  if (!nccl.why_not.empty()) return nccl.why_not;
  if (share.nccl_device == nccl.device) {
    return "this engine is on the trainer's own GPU, and NCCL takes a GPU once";
  }
  return {};
}

/// Whether the share's endpoint gives bytes to who asks over tcp: it may be there for NCCL alone.
bool serves_tcp(const plan::Share& share) {
  return !share.endpoint.empty() && (share.device.empty() || share.nccl_device.empty());
}

}  // namespace

Result<ShareSource> choose_source(const plan::Share& share, const Version& version,
                                  const std::string& relay, TransportChoice wanted,
                                  const std::string& host, const NcclWay& nccl) {
  if (wanted == TransportChoice::kNccl && nccl.falls_back) wanted = TransportChoice::kAuto;
  const bool network_allowed = wanted == TransportChoice::kAuto || wanted == TransportChoice::kTcp;
  ShareSource source;
  source.address.object = share.object;
  source.address.version = version;
  source.address.generation = share.generation;
  source.address.payload_bytes = share.payload_bytes;
  const bool here = share.host.empty() || share.host == host;
  source.is_near = here && stream::is_one_host_to_nccl(share.nccl_device, nccl.device);
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
  const TransportChoice local = local_way(share);
  if (here && (wanted == TransportChoice::kAuto || wanted == local)) {
    source.transport = local;
    source.address.device = share.device;
    source.address.device_memory = share.device_memory;
    source.address.device_offset = share.device_offset;
    return source;
  }
  if (wanted == TransportChoice::kAuto || wanted == TransportChoice::kNccl) {
    const std::string why = why_not_nccl(share, nccl);
    if (why.empty()) {
      source.transport = TransportChoice::kNccl;
      source.address.endpoint = share.endpoint;
      return source;
    }
    if (wanted == TransportChoice::kNccl) {
      return Status(Code::kUnavailable, "the share of rank " + std::to_string(share.rank) +
                                            " does not come over nccl: " + why +
                                            "; set transport to auto");
    }
  }
  if (!serves_tcp(share) || !network_allowed) return no_way(share, wanted, host);
  source.transport = TransportChoice::kTcp;
  source.address.endpoint = share.endpoint;
  return source;
}

Sources::Sources(TransportSet transports, TransportChoice wanted,
                 transport::LaneOptions lane_options)
    : transports_(std::move(transports)), wanted_(wanted), lane_options_(lane_options) {}

NcclWay Sources::way_of_nccl(const Version& version, const plan::Manifest& manifest,
                             const std::string& no_nccl) {
  NcclWay way;
  if (version.run == left_in_) {
    way.why_not = why_left_;
    way.falls_back = true;
    return way;
  }
  if (!no_nccl.empty()) {
    way.why_not = no_nccl;
    way.falls_back = true;
    return way;
  }
  const bool is_offered = std::any_of(
      manifest.shares.begin(), manifest.shares.end(), [&](const plan::Share& share) {
        const bool here = share.host.empty() || share.host == transports_.host;
        return !share.nccl_device.empty() && (wanted_ == TransportChoice::kNccl ||
                                              (wanted_ == TransportChoice::kAuto && !here));
      });
  if (!nccl_ && no_nccl_.empty() && is_offered && transports_.nccl) {
    auto opened = transports_.nccl();
    if (opened) {
      nccl_ = std::move(*opened);
    } else {
      no_nccl_ = opened.status().message();
      base::log(LogLevel::kInfo, "no_nccl", {{"why", no_nccl_}});
    }
  }
  if (nccl_) {
    way.why_not.clear();
    way.device = nccl_->identity();
  } else if (!no_nccl_.empty()) {
    way.why_not = no_nccl_;
  }
  return way;
}

void Sources::leave_nccl(const Run& run, std::string why) {
  left_in_ = run;
  why_left_ = std::move(why);
}

Result<std::vector<ShareSource>> Sources::choose(const Version& version,
                                                 const plan::Manifest& manifest,
                                                 const std::string& relay,
                                                 const std::string& no_nccl) {
  const NcclWay nccl = way_of_nccl(version, manifest, no_nccl);
  note_ = nccl.falls_back ? " (nccl: " + nccl.why_not + ")" : "";
  std::vector<ShareSource> chosen;
  std::set<std::string> keys;
  for (const plan::Share& share : manifest.shares) {
    auto source = choose_source(share, version, relay, wanted_, transports_.host, nccl);
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
