// Where each share of a version is read from, and over what.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/manifest.hpp"
#include "subscriber/nccl_lane.hpp"
#include "transport/transport.hpp"

namespace weightcast::subscriber {

/// The transports that this process may use. Each is opened when a share first needs it.
struct TransportSet {
  using Open = std::function<Result<std::shared_ptr<transport::Transport>>()>;
  std::string host;  ///< identity of this host, as in plan::Share::host
  Open shm;
  Open tcp;       ///< empty: this engine was given none; as the next one
  Open cuda_ipc{};
  /// Empty: as the others.
  std::function<Result<std::unique_ptr<NcclLane>>()> nccl{};
};

/// Whether this engine can take shares over NCCL now.
struct NcclWay {
  std::string why_not = "this engine has no NCCL";  ///< empty: it can
  std::string device{};     ///< its GPU, as plan::Share::nccl_device
  bool falls_back = false;  ///< where it was asked for and cannot be, another transport serves
};

/// One share's way here.
struct ShareSource {
  TransportChoice transport = TransportChoice::kShm;  ///< never kAuto
  transport::SegmentAddress address;
  bool is_near = false;  ///< its source is on this host, also to NCCL
};

/// Pure. Where the share lies on this host (or says no host), and no other transport is wanted: over
/// cuda_ipc from a device's memory, else over shm; from elsewhere, over nccl where both ends have it,
/// else over tcp from its endpoint. With a relay, all shares come from that engine's endpoint.
/// @param relay endpoint of an engine that serves the version; empty: from the sources
/// @return kUnavailable that says why neither way is there
Result<ShareSource> choose_source(const plan::Share& share, const Version& version,
                                  const std::string& relay, TransportChoice wanted,
                                  const std::string& host, const NcclWay& nccl = {});

/// A share that can be read: its bytes are held still while the segment lives.
struct OpenShare {
  transport::Lane* lane = nullptr;  ///< good until the next Sources::choose or drop_lanes
  std::shared_ptr<transport::Segment> segment;
  bool awaits_peer = false;  ///< see stream::SegmentTransfer
};

/// Thread safety: one thread; the lanes' own.
class Sources {
 public:
  Sources(TransportSet transports, TransportChoice wanted, transport::LaneOptions lane_options);

  /// One source a share, and forgets lanes to those that are none any more.
  /// @param no_nccl why this version does not come over nccl, where that is known; else empty
  Result<std::vector<ShareSource>> choose(const Version& version, const plan::Manifest& manifest,
                                          const std::string& relay,
                                          const std::string& no_nccl = {});

  /// The lane of sources that are nccl. Null before choose() gave one.
  NcclLane* nccl() noexcept { return nccl_.get(); }
  /// Why the last choice was another way than nccl, " (nccl: ...)" for status, where it fell back; else
  /// empty.
  const std::string& note() const noexcept { return note_; }
  /// NCCL is not used any more for versions of this run.
  void leave_nccl(const Run& run, std::string why);

  /// Takes hold of a share. @return as Lane::acquire and Transport::open_lane
  Result<OpenShare> open(std::uint32_t rank, const ShareSource& source);

  /// Looks at a share that is being written. @return as Lane::follow and Transport::open_lane
  Result<std::shared_ptr<transport::Draft>> follow(std::uint32_t rank, const ShareSource& source);

  /// After a transfer was given up: lanes to peers may have been aborted, and are made anew.
  void drop_peer_lanes();

  std::uint32_t credit() const noexcept { return lane_options_.max_in_flight; }

 private:
  struct OwnLane {
    std::unique_ptr<transport::Lane> lane;
    bool awaits_peer = false;
  };
  NcclWay way_of_nccl(const Version& version, const plan::Manifest& manifest,
                      const std::string& no_nccl);
  Result<transport::Transport*> transport_of(TransportChoice choice);
  Result<OwnLane*> lane_to(std::uint32_t rank, const ShareSource& source);

  const TransportSet transports_;
  const TransportChoice wanted_;
  const transport::LaneOptions lane_options_;
  std::map<TransportChoice, std::shared_ptr<transport::Transport>> opened_;
  std::map<std::string, OwnLane> lanes_;  ///< by transport and peer
  std::unique_ptr<NcclLane> nccl_;
  std::string no_nccl_;  ///< why there is none; empty: not known
  Run left_in_;          ///< the run in which NCCL was given up, because of why_left_
  std::string why_left_;
  std::string note_;
};

/// "shm", "cuda_ipc", "tcp", ..., "tcp from <relay>", or "shm and tcp", for status.
std::string describe_sources(const std::vector<ShareSource>& sources, const std::string& relay);

}  // namespace weightcast::subscriber
