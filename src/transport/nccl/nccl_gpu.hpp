// All that one GPU of this process has for NCCL: streams, bucket buffers, communicators; and the
// quarantine after a failure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "driver/cuda.hpp"
#include "driver/nccl.hpp"
#include "transport/nccl/aborter.hpp"
#include "transport/nccl/bucket_ring.hpp"
#include "transport/nccl/communicator.hpp"
#include "transport/nccl/nccl_options.hpp"

namespace weightcast::transport {

/// Communicators live from version to version, by the name of their group. After a failure all that
/// took part in a transfer are aborted, and until that is over and the streams are empty the buffers
/// are in quarantine: new communicators may join meanwhile, but nothing is transferred. One that rests
/// between transfers is aborted without that, when it fails or is given up: its peers may have ended.
/// Thread safety: one thread.
class NcclGpu {
 public:
  /// Takes all memory that will be used. @return kExhausted, kInvalid, what CUDA says
  static Result<std::unique_ptr<NcclGpu>> open(std::shared_ptr<driver::Nccl> nccl,
                                               std::shared_ptr<driver::Cuda> cuda, int device,
                                               const NcclOptions& options);
  /// Aborts what is there, and waits up to options.abort for that to end; what then still runs keeps
  /// its memory for good.
  ~NcclGpu();
  NcclGpu(const NcclGpu&) = delete;
  NcclGpu& operator=(const NcclGpu&) = delete;

  /// Begins to join a group's communicator, in the place of an older one of that name.
  /// @return kStale where one of that generation or a newer one is there, kExhausted where the GPU is
  ///   in as many as it may: leave() one
  Status join(const std::string& group, const CommPlace& place, Clock::time_point now);
  /// Null where there is none, or it failed and was forgotten.
  Communicator* find(const std::string& group) noexcept;
  /// In peace: when nothing of it is under way here and all members do.
  void leave(const std::string& group, Clock::time_point now);
  /// After a failure: aborts those groups, and puts the buffers into quarantine, unless all rested.
  void fail(const std::vector<std::string>& groups, const Status& why, Clock::time_point now);

  /// Ends one that rests, if it is still there.
  void drop(const std::string& group, const Status& why, Clock::time_point now);

  /// Brings everything on. Communicators that have ended are forgotten.
  void poll(Clock::time_point now);
  /// Ok: transfers may be made. kUnavailable: in quarantine, or lost for good (is_lost()).
  const Status& status() const noexcept { return status_; }
  bool is_lost() const noexcept { return is_lost_; }
  std::size_t communicators() const noexcept { return communicators_.size(); }
  std::size_t resting() const noexcept;

  /// Waits for those that are being left. Blocks. @return kDeadline where some had to be aborted
  Status settle(Deadline deadline);
  /// Leaves all groups in peace, but those that rest, whose members know nothing of it: they are aborted.
  /// Blocks. @return kDeadline where others had to be aborted
  Status close(Deadline deadline);

  driver::Nccl& nccl() const noexcept { return *nccl_; }
  driver::Cuda& cuda() const noexcept { return *cuda_; }
  const std::shared_ptr<driver::Cuda>& shared_cuda() const noexcept { return cuda_; }
  int device() const noexcept { return device_; }
  const NcclOptions& options() const noexcept { return options_; }
  driver::Stream wire() const noexcept { return wire_; }  ///< one transfer after the other
  driver::Stream copy() const noexcept { return copy_; }  ///< in and out of bucket buffers
  const BucketRing& ring() const noexcept { return *ring_; }
  /// Events of a bucket buffer.
  struct Events {
    driver::Event loaded = nullptr;
    driver::Event wired = nullptr;
    driver::Event placed = nullptr;
  };
  const Events& events(std::size_t bucket) const noexcept { return events_[bucket]; }

 private:
  NcclGpu(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda, int device,
          const NcclOptions& options);
  Status take();
  void poll_quarantine(Clock::time_point now);
  Result<bool> drained();

  const std::shared_ptr<driver::Nccl> nccl_;
  const std::shared_ptr<driver::Cuda> cuda_;
  const int device_;
  const NcclOptions options_;
  Aborter aborter_;
  driver::Stream wire_ = nullptr;
  driver::Stream copy_ = nullptr;
  driver::Event wire_end_ = nullptr;
  driver::Event copy_end_ = nullptr;
  std::vector<Events> events_;
  std::unique_ptr<BucketRing> ring_;
  std::map<std::string, std::unique_ptr<Communicator>> communicators_;
  std::vector<AbortTicket> tickets_;
  Clock::time_point quarantined_at_{};
  bool ends_recorded_ = false;
  bool is_lost_ = false;
  std::uint64_t aborts_ = 0;  ///< so far, of such as did not rest
  Status status_;
};

}  // namespace weightcast::transport
