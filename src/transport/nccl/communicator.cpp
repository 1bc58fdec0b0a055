#include "transport/nccl/communicator.hpp"

#include <utility>

#include "base/log.hpp"

namespace weightcast::transport {

using driver::NcclProgress;

Communicator::Communicator(std::shared_ptr<driver::Nccl> nccl, Aborter& aborter,
                           const BucketRing& ring, const CommPlace& place,
                           const NcclOptions& options, Clock::time_point now)
    : nccl_(std::move(nccl)),
      aborter_(aborter),
      ring_(ring),
      place_(place),
      options_(options),
      since_(now) {}

Result<std::unique_ptr<Communicator>> Communicator::join(std::shared_ptr<driver::Nccl> nccl,
                                                         Aborter& aborter, const BucketRing& ring,
                                                         int device, const CommPlace& place,
                                                         const NcclOptions& options,
                                                         Clock::time_point now) {
  std::unique_ptr<Communicator> joining(
      new Communicator(std::move(nccl), aborter, ring, place, options, now));
  driver::NcclCommOptions how = options.communicator;
  if (place.blocks != 0) how.max_ctas = place.blocks;
  auto comm = joining->nccl_->init_rank(device, place.id, place.rank, place.size, how);
  if (!comm) {
    joining->state_ = State::kLeft;
    return comm.status();
  }
  joining->comm_ = *comm;
  return joining;
}

Communicator::~Communicator() {
  if (state_ != State::kLeft) abort({Code::kCancelled, "the communicator was given up"});
}

driver::NcclComm Communicator::handle() const noexcept {
  return state_ == State::kReady ? comm_ : nullptr;
}

Status Communicator::note(const Result<NcclProgress>& call) {
  if (!call) {
    abort(call.status());
    return call.status();
  }
  if (*call == NcclProgress::kUnderWay) state_ = State::kBusy;
  return Status::ok();
}

Communicator::State Communicator::poll(Clock::time_point now) {
  if (state_ == State::kLeft || state_ == State::kFailed) return state_;
  const auto progress = nccl_->state(comm_);
  if (!progress) {
    abort(progress.status());
  } else if (*progress == NcclProgress::kOver) {
    advance(now);
  } else if (state_ == State::kJoining && now - since_ > options_.join) {
    abort({Code::kDeadline,
           "not all of " + std::to_string(place_.size) +
               " ranks came into the communicator in time; look whether all of them can reach "
               "each other (NCCL_SOCKET_IFNAME, NCCL_DEBUG=INFO)"});
  } else if (state_ == State::kLeaving && now - since_ > options_.leave) {
    abort({Code::kDeadline, "the communicator did not end in peace"});
  }
  return state_;
}

/// What was under way is over.
void Communicator::advance(Clock::time_point) {
  if (state_ == State::kLeaving) {
    if (Status s = nccl_->destroy(comm_); !s) {
      abort(std::move(s));
    } else {
      state_ = State::kLeft;
    }
    return;
  }
  if (state_ == State::kJoining && options_.registers) {
    if (Status s = register_buckets(); !s) return abort(std::move(s));
  }
  state_ = State::kReady;
}

Status Communicator::register_buckets() {
  for (std::size_t i = 0; i < ring_.count(); ++i) {
    // Not without, where the others may have registered theirs.
    auto handle = nccl_->register_memory(comm_, ring_.at(i), ring_.bucket_bytes());
    if (!handle) return handle.status();
    registrations_.push_back(*handle);
  }
  return Status::ok();
}

void Communicator::leave(Clock::time_point now) {
  if (state_ == State::kLeft || state_ == State::kFailed || state_ == State::kLeaving) return;
  if (state_ != State::kReady) return abort({Code::kCancelled, "left before it was ready"});
  for (void* handle : registrations_) {
    if (Status s = nccl_->deregister_memory(comm_, handle); !s) return abort(std::move(s));
  }
  registrations_.clear();
  is_resting_ = false;
  since_ = now;
  state_ = State::kLeaving;
  if (const auto begun = nccl_->finalize(comm_); !begun) abort(begun.status());
}

void Communicator::abort(Status why) {
  if (state_ == State::kLeft || state_ == State::kFailed) return;
  state_ = State::kFailed;
  status_ = std::move(why);
  ticket_ = aborter_.give(comm_);
}

}  // namespace weightcast::transport
