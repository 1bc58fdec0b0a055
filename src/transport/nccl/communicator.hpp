// One communicator from the first rank's call to its end, by polling: nothing here waits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "driver/nccl.hpp"
#include "transport/nccl/aborter.hpp"
#include "transport/nccl/bucket_ring.hpp"
#include "transport/nccl/nccl_options.hpp"

namespace weightcast::transport {

/// A place in a communicator.
struct CommPlace {
  driver::NcclUniqueId id;
  int rank = 0;
  int size = 0;
  std::uint64_t generation = 0;  ///< of its group; rises with each communicator made for it
  int blocks = 0;  ///< of its kernels, at most: the same on all ranks; 0: as the options say
};

/// Thread safety: one thread.
class Communicator {
 public:
  enum class State {
    kJoining,
    kReady,   ///< a call may be made
    kBusy,    ///< the last call is still being made
    kLeaving,
    kLeft,    ///< in peace
    kFailed   ///< being aborted, or over: ticket()
  };

  /// Begins to join. @param ring its buckets may be registered when all ranks are in
  /// @return what init_rank says
  static Result<std::unique_ptr<Communicator>> join(std::shared_ptr<driver::Nccl> nccl,
                                                    Aborter& aborter, const BucketRing& ring,
                                                    int device, const CommPlace& place,
                                                    const NcclOptions& options,
                                                    Clock::time_point now);
  /// Aborts what has not left.
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Looks for errors and deadlines, and goes on. After an error or a deadline it aborts.
  State poll(Clock::time_point now);
  State state() const noexcept { return state_; }
  /// Why it failed.
  const Status& status() const noexcept { return status_; }
  std::uint64_t generation() const noexcept { return place_.generation; }
  int size() const noexcept { return place_.size; }

  /// For calls. Null but in kReady.
  driver::NcclComm handle() const noexcept;
  /// What a call made with handle() said. @return its error, after which this has failed
  Status note(const Result<driver::NcclProgress>& call);

  /// Whether nothing that was called for is under way, and nobody waits for it. It is kept for a transfer
  /// to come: its end touches no buffer.
  bool is_resting() const noexcept { return is_resting_; }
  void set_resting(bool resting) noexcept { is_resting_ = resting; }

  /// Begins to end it in peace: all ranks do, and nothing has failed.
  void leave(Clock::time_point now);
  void abort(Status why);
  /// Of its abort; null where there is none.
  const AbortTicket& ticket() const noexcept { return ticket_; }

 private:
  Communicator(std::shared_ptr<driver::Nccl> nccl, Aborter& aborter, const BucketRing& ring,
               const CommPlace& place, const NcclOptions& options, Clock::time_point now);
  void advance(Clock::time_point now);
  Status register_buckets();

  const std::shared_ptr<driver::Nccl> nccl_;
  Aborter& aborter_;
  const BucketRing& ring_;
  const CommPlace place_;
  const NcclOptions options_;
  driver::NcclComm comm_ = nullptr;
  State state_ = State::kJoining;
  bool is_resting_ = false;
  Clock::time_point since_;
  Status status_;
  AbortTicket ticket_;
  std::vector<void*> registrations_;
};

}  // namespace weightcast::transport
