// Moves one version's buckets through the communicators of a GPU, by polling: nothing here waits.
//
// A step is one operation of NCCL. Steps are taken in the order given, one under way on the wire at a
// time; around it the next ones are loaded into their buffers and the former ones placed, so that
// copies and wire overlap. All bytes go through the buffers on every rank, also where they could go
// straight from a slot or into an image: an abort leaves images alone, and where the buffers are
// registered with NCCL a call in which some ranks' memory is and others' is not is undefined ("User
// Buffer Registration" of its guide; between two GPUs of a host the second such call hangs).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "transport/nccl/nccl_gpu.hpp"

namespace weightcast::transport {

struct FlowStep {
  enum class Kind {
    kBroadcastFrom,  ///< this end is the root
    kBroadcastTo,
    kPass,  ///< a broadcast that another sender's bytes come by: received, and dropped
    kSend,
    kReceive
  };
  Kind kind = Kind::kBroadcastTo;
  std::uint32_t group = 0;  ///< index into the flow's groups
  int peer = 0;             ///< NCCL's rank of the root or peer
  std::uint32_t bucket = 0; ///< for the end, which knows what it is
  std::uint64_t bytes = 0;  ///< at most the ring's bucket_bytes; not 0
};

/// Where a flow's bytes come from or go to. Calls come from the flow's thread and must not wait.
class BucketEnd {
 public:
  virtual ~BucketEnd() = default;
  /// For a sender: queues copies of the bucket's bytes to `buffer`.
  virtual Status load(const FlowStep& step, std::byte* buffer, driver::Stream stream) = 0;
  /// For a receiver: the bytes are in the buffer; queues copies from there to where they belong.
  /// Nothing of NCCL is before them on the stream.
  virtual Status place(const FlowStep& step, std::span<const std::byte> buffer,
                       driver::Stream stream) = 0;
  /// For a receiver: whether nobody else reads a buffer any more whose bytes are in their places. Asked
  /// again at each poll until it is so; the buffer is kept that long.
  virtual bool is_let_go(const FlowStep& step, Clock::time_point now) {
    (void)step, (void)now;
    return true;
  }
  /// All of the step is over; called in the order of the steps.
  virtual void done(const FlowStep& step) = 0;
};

/// Between looks at a flow: well below the time of a bucket on the wire, and not all of a processor.
inline constexpr Duration kLookAtFlow = std::chrono::microseconds(50);

/// Communicators of its groups rest again when it is done.
/// Thread safety: one thread, the gpu's.
class BucketFlow {
 public:
  enum class State { kRunning, kDone, kFailed };

  /// @param gpu status() is ok; no other flow of it is running
  /// @param groups names of communicators, all of them joined or joining
  /// @param end outlives this, and after a failure until gpu.status() is ok again: copies that had
  ///   been queued still run
  BucketFlow(NcclGpu& gpu, std::vector<std::string> groups, std::vector<FlowStep> steps,
             BucketEnd& end, Clock::time_point now);
  /// Fails a flow that is still running.
  ~BucketFlow();
  BucketFlow(const BucketFlow&) = delete;
  BucketFlow& operator=(const BucketFlow&) = delete;

  /// Goes on as far as it can, and polls the gpu. After a failure, a deadline (options.silence without
  /// a step that ends) or cancel() the communicators of all its groups are being aborted.
  State poll(Clock::time_point now);
  void cancel(const Status& why, Clock::time_point now);
  /// Why it failed.
  const Status& status() const noexcept { return status_; }
  /// How many steps are over, from the first one on. After a failure a new flow begins there.
  std::size_t done() const noexcept { return done_; }

 private:
  static bool sends(const FlowStep& step) noexcept;

  void set_resting(bool resting);
  Status go_on(Clock::time_point now);
  Status load();
  Result<bool> issue(Clock::time_point now);
  Result<bool> complete(Clock::time_point now);
  Communicator* communicator(const FlowStep& step) { return gpu_.find(groups_[step.group]); }

  NcclGpu& gpu_;
  const std::vector<std::string> groups_;
  const std::vector<FlowStep> steps_;
  BucketEnd& end_;
  std::vector<Clock::time_point> begun_;  ///< by buffer: when its operation was called for
  std::size_t loaded_ = 0;  ///< steps that have their buffer
  std::size_t issued_ = 0;  ///< steps whose operation has been called for
  std::size_t wired_ = 0;   ///< steps that NCCL has taken over: their operation is on the stream
  std::size_t placed_ = 0;  ///< steps whose bytes are here, and on the way to their places
  std::size_t done_ = 0;
  Clock::time_point heard_;   ///< when a step was last over
  Clock::time_point looked_;  ///< the last poll
  State state_ = State::kRunning;
  Status status_;
};

/// Polls a flow to its end. Blocks. @return its status; kDeadline, kCancelled
Status run(BucketFlow& flow, Deadline deadline, const std::function<bool()>& cancelled);

}  // namespace weightcast::transport
