// Moves one share's buckets out of a leader's ring, by polling: nothing here waits. As BucketFlow does
// with what comes through NCCL, but that the buckets lie in another process's memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "staging/bucket_board.hpp"
#include "transport/cuda_ipc/opened_memory.hpp"
#include "transport/nccl/bucket_flow.hpp"

namespace weightcast::transport {

/// Thread safety: one thread, the gpu's.
class NeighbourFlow {
 public:
  using State = BucketFlow::State;

  /// @param gpu whose copy stream and events are used; NCCL is not
  /// @param board name of the leader's
  /// @param steps one for each bucket in order, from flow.first on
  /// @param end outlives this, and copies that are queued
  NeighbourFlow(NcclGpu& gpu, std::string board, const staging::BoardFlow& flow, std::uint32_t seat,
                std::vector<FlowStep> steps, BucketEnd& end, Clock::time_point now);
  ~NeighbourFlow();  ///< the leader waits for it no longer
  NeighbourFlow(const NeighbourFlow&) = delete;
  NeighbourFlow& operator=(const NeighbourFlow&) = delete;

  State poll(Clock::time_point now);
  const Status& status() const noexcept { return status_; }
  /// Steps that are over, from the first one on.
  std::size_t done() const noexcept { return taken_; }
  /// Whether it failed because the leader's memory cannot be read from here: another leader's may not
  /// be either.
  bool is_cut_off() const noexcept { return is_cut_off_; }
  /// The leader's ring. Null before it was open. Outlives copies that are queued.
  const std::shared_ptr<const OpenedMemory>& memory() const noexcept { return memory_; }

 private:
  State fail(Status why);
  Status come_in();
  Status queue(Clock::time_point now);
  Status take(Clock::time_point now);

  NcclGpu& gpu_;
  const std::string board_;
  const staging::BoardFlow flow_;
  const std::uint32_t seat_index_;
  const std::vector<FlowStep> steps_;
  BucketEnd& end_;
  std::unique_ptr<staging::BoardSeat> seat_;
  std::shared_ptr<const OpenedMemory> memory_;
  std::vector<Clock::time_point> begun_;  ///< of the copies under way
  std::size_t queued_ = 0;
  std::size_t taken_ = 0;
  Clock::time_point heard_;
  State state_ = State::kRunning;
  bool is_cut_off_ = false;
  Status status_;
};

}  // namespace weightcast::transport
