// An engine's end of NCCL: asks a share's source for a place in a communicator, takes the share's
// buckets, and copies them to where they belong. Of engines that can read each other's device memory one
// takes them off the wire, as the source says, and the others out of that one's ring.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver/cuda.hpp"
#include "driver/nccl.hpp"
#include "keys/key_ring.hpp"
#include "transport/cuda_ipc/opened_memory.hpp"
#include "transport/nccl/led_ring.hpp"
#include "transport/nccl/nccl_gpu.hpp"
#include "transport/nccl/session.hpp"
#include "transport/tcp/session_client.hpp"
#include "transport/transport.hpp"

namespace weightcast::subscriber {

/// `bytes` bytes of a share's payload, and where they go in device memory.
struct NcclRun {
  std::uint64_t source = 0;
  std::byte* target = nullptr;
  std::uint64_t bytes = 0;
};

/// One share on its way in.
struct NcclShare {
  transport::SegmentAddress address;
  bool is_near = false;       ///< as ShareSource has it
  std::vector<NcclRun> runs;  ///< by `source`, apart from each other
  /// Called with the bytes of each bucket, when they are in their places; may be empty.
  std::function<void(std::uint64_t bytes)> placed{};
};

struct NcclLaneOptions {
  std::string name;  ///< of this receiver, unique in the job
  std::string job{};
  std::string policy{};
  std::string host{};  ///< identity of this host; engines of one host share a rank
  int device = 0;
  std::shared_ptr<const keys::KeyRing> keys{};
  transport::SessionOptions session{};
};

/// The one rule about memory: NCCL reads and writes its own buckets alone. What goes to an image are
/// copies of this lane, out of buckets that have come whole, on a stream of their own. So a failed
/// transfer leaves nothing behind that could write to the image later, however long its abort takes;
/// only the buckets wait for that, and the next transfer with them.
///
/// Streams, events and buckets are taken with the first share, and anew when shares outgrow the buckets.
/// The communicator of a source is kept for its next version, where the source says so.
/// Thread safety: one thread.
class NcclLane {
 public:
  /// @return what CUDA says of the device
  static Result<std::unique_ptr<NcclLane>> open(std::shared_ptr<driver::Nccl> nccl,
                                                std::shared_ptr<driver::Cuda> cuda,
                                                NcclLaneOptions options);
  ~NcclLane();
  NcclLane(const NcclLane&) = delete;
  NcclLane& operator=(const NcclLane&) = delete;

  const std::string& identity() const noexcept { return identity_; }

  /// Brings a share. Blocks until it is there, or nothing of it is under way to its memory any more: at
  /// most the options' deadlines, and a moment after `cancelled`.
  /// @return kCancelled; kStale or what the source refused with (is_refused); else why NCCL failed, as
  ///   often in a row as options.session.failures says
  Status bring(const NcclShare& share, const std::function<bool()>& cancelled);
  /// Whether the last failure was the source's word: NCCL itself may serve another time.
  bool is_refused() const noexcept { return is_refused_; }
  /// Before the first share of a version.
  void begin_version() noexcept { is_led_ = false; }
  /// Whether a share of that version came out of the ring of another engine of this place.
  bool is_led() const noexcept { return is_led_; }
  /// Lets communicators end that bring() has left, and drops those of sources that it was not called for
  /// since the last settle(). Blocks for a moment.
  void settle();

 private:
  friend class NcclBring;
  NcclLane(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda,
           NcclLaneOptions options, std::string identity);
  struct Client {
    std::unique_ptr<transport::SessionClient> to;
    bool is_used = false;  ///< since the last settle()
    std::uint64_t kept = 0;  ///< session whose communicator is kept; 0: none
    std::string group{};     ///< of that communicator
  };
  struct Leader {
    std::shared_ptr<const transport::OpenedMemory> memory;  ///< its ring
    bool is_used = true;  ///< since the last settle()
  };
  Status make_room(std::uint64_t payload_bytes);
  Result<Client*> client_of(const transport::SegmentAddress& address);
  void drop_kept(Client& client, Clock::time_point now);
  bool may_keep(const Client& client) const;
  std::string place_of(const NcclShare& share) const;
  void show_ring();
  void share_with_nobody(const std::string& why);
  void note_leader(bool is_cut_off, const std::string& why);

  const std::shared_ptr<driver::Nccl> nccl_;
  const std::shared_ptr<driver::Cuda> cuda_;
  const NcclLaneOptions options_;
  const std::string identity_;
  driver::Event copied_ = nullptr;
  std::unique_ptr<transport::NcclGpu> gpu_;
  std::map<std::string, Client> clients_;  ///< by the object's owner
  std::unique_ptr<transport::LedRing> led_;  ///< null: nobody can get anything from this engine
  std::map<std::string, Leader> leaders_;    ///< by board
  bool is_led_ = false;
  int cut_off_ = 0;  ///< leaders in a row whose memory could not be read
  std::uint64_t asked_ = 0;  ///< the last incarnation that asked
  bool is_refused_ = false;
};

}  // namespace weightcast::subscriber
