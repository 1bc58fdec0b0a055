// One share's way in over NCCL, through as many sessions as it takes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "subscriber/nccl_lane.hpp"
#include "transport/nccl/bucket_flow.hpp"
#include "transport/nccl/neighbour_flow.hpp"
#include "transport/nccl/receiver.hpp"
#include "transport/nccl/session_guest.hpp"

namespace weightcast::subscriber {

/// Thread safety: one thread, the lane's.
class NcclBring {
 public:
  /// @param lane has room for the share; asked_ is this one's
  NcclBring(NcclLane& lane, const NcclShare& share, NcclLane::Client& client,
            const std::function<bool()>& cancelled);
  /// As NcclLane::bring().
  Status run();

 private:
  void ask(Clock::time_point now);
  void flow(Clock::time_point now);
  bool join(Clock::time_point now);
  void flow_aside(Clock::time_point now);
  void keep_ring();
  void flow_failed(const Status& why, std::uint32_t have, Clock::time_point now);
  Status give_up(Status why);
  Status place(std::uint64_t offset, std::span<const std::byte> bucket, driver::Stream stream);
  std::vector<transport::NcclDestination> destinations();

  NcclLane& lane_;
  transport::NcclGpu& gpu_;
  const NcclShare& share_;
  NcclLane::Client& client_;
  const std::function<bool()>& cancelled_;
  const std::uint64_t bucket_bytes_;
  transport::NcclReceiver end_;
  transport::SessionGuest guest_;
  bool is_rested_ = false;
  bool awaits_answer_ = false;
  Clock::time_point asked_at_{};
  std::string group_;
  std::unique_ptr<transport::BucketFlow> flow_;
  std::unique_ptr<transport::NeighbourFlow> aside_;  ///< out of a leader's ring
  bool leads_ = false;  ///< neighbours get what comes
};

}  // namespace weightcast::subscriber
