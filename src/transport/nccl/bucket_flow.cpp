#include "transport/nccl/bucket_flow.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/trace.hpp"

namespace weightcast::transport {

using driver::NcclProgress;
using Kind = FlowStep::Kind;

BucketFlow::BucketFlow(NcclGpu& gpu, std::vector<std::string> groups, std::vector<FlowStep> steps,
                       BucketEnd& end, Clock::time_point now)
    : gpu_(gpu),
      groups_(std::move(groups)),
      steps_(std::move(steps)),
      end_(end),
      begun_(gpu.ring().count()),
      heard_(now),
      looked_(now) {
  set_resting(false);
}

void BucketFlow::set_resting(bool resting) {
  for (const std::string& group : groups_) {
    if (Communicator* const one = gpu_.find(group); one != nullptr) one->set_resting(resting);
  }
}

BucketFlow::~BucketFlow() {
  if (state_ == State::kRunning) cancel({Code::kCancelled, "the flow was given up"}, looked_);
}

bool BucketFlow::sends(const FlowStep& step) noexcept {
  return step.kind == Kind::kBroadcastFrom || step.kind == Kind::kSend;
}

BucketFlow::State BucketFlow::poll(Clock::time_point now) {
  if (state_ != State::kRunning) return state_;
  looked_ = now;
  gpu_.poll(now);
  if (Status s = go_on(now); !s) {
    cancel(s, now);
  } else if (done_ == steps_.size()) {
    state_ = State::kDone;
    set_resting(true);
  } else if (now - heard_ > gpu_.options().silence) {
    cancel({Code::kDeadline, "no bucket moved through NCCL for " +
                                 std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(
                                                    gpu_.options().silence)
                                                    .count()) +
                                 " ms (bucket " + std::to_string(done_ + 1) + " of " +
                                 std::to_string(steps_.size()) + "): a member is gone or stopped"},
           now);
  }
  return state_;
}

void BucketFlow::cancel(const Status& why, Clock::time_point now) {
  if (state_ != State::kRunning) return;
  state_ = State::kFailed;
  status_ = why;
  gpu_.fail(groups_, why, now);
}

Status BucketFlow::go_on(Clock::time_point now) {
  // A failure of any of them has let go kernels of this flow, or will: what they brought is void.
  for (const std::string& group : groups_) {
    const Communicator* const communicator = gpu_.find(group);
    if (communicator == nullptr) {
      return gpu_.status() ? Status(Code::kUnavailable, "communicator " + group + " is not there")
                           : gpu_.status();
    }
    if (communicator->state() == Communicator::State::kLeaving) {
      return {Code::kUnavailable, "communicator " + group + " is being left"};
    }
  }
  for (bool some = true; some;) {
    auto completed = complete(now);
    if (!completed) return completed.status();
    if (Status s = load(); !s) return s;
    auto issued = issue(now);
    if (!issued) return issued.status();
    some = *completed || *issued;
  }
  return Status::ok();
}

/// Gives buffers to the next steps.
Status BucketFlow::load() {
  for (; loaded_ < steps_.size() && loaded_ - done_ < begun_.size(); ++loaded_) {
    const FlowStep& step = steps_[loaded_];
    const std::size_t index = loaded_ % begun_.size();
    std::byte* const buffer = gpu_.ring().at(index);
    if (step.bytes == 0 || step.bytes > gpu_.ring().bucket_bytes() || step.group >= groups_.size()) {
      return {Code::kInvalid, "expected buckets of 1 to " +
                                  std::to_string(gpu_.ring().bucket_bytes()) +
                                  " bytes in a known group, got " + std::to_string(step.bytes)};
    }
    if (!sends(step)) continue;
    if (Status s = end_.load(step, buffer, gpu_.copy()); !s) return s;
    const driver::Event loaded = gpu_.events(index).loaded;
    if (Status s = gpu_.cuda().record(gpu_.device(), loaded, gpu_.copy()); !s) return s;
  }
  return Status::ok();
}

/// Calls for the next step's operation, where the last one is on its stream.
/// @return whether something happened
Result<bool> BucketFlow::issue(Clock::time_point now) {
  bool happened = false;
  if (wired_ < issued_) {
    if (communicator(steps_[wired_])->handle() == nullptr) return false;  // still being taken over
    const driver::Event wired = gpu_.events(wired_ % begun_.size()).wired;
    if (Status s = gpu_.cuda().record(gpu_.device(), wired, gpu_.wire()); !s) return s;
    ++wired_;
    happened = true;
  }
  if (issued_ == loaded_) return happened;
  const FlowStep& step = steps_[issued_];
  const std::size_t index = issued_ % begun_.size();
  Communicator& through = *communicator(step);
  const driver::NcclComm comm = through.handle();
  if (comm == nullptr) return happened;
  if (sends(step)) {
    const driver::Event loaded = gpu_.events(index).loaded;
    if (Status s = gpu_.cuda().wait(gpu_.device(), gpu_.wire(), loaded); !s) return s;
  }
  driver::Nccl& nccl = gpu_.nccl();
  std::byte* const buffer = gpu_.ring().at(index);
  Result<NcclProgress> call = NcclProgress::kOver;
  switch (step.kind) {
    case Kind::kBroadcastFrom:
    case Kind::kBroadcastTo:
    case Kind::kPass:
      call = nccl.broadcast(comm, buffer, buffer, step.bytes, step.peer, gpu_.wire());
      break;
    case Kind::kSend:
      call = nccl.send(comm, buffer, step.bytes, step.peer, gpu_.wire());
      break;
    case Kind::kReceive:
      call = nccl.receive(comm, buffer, step.bytes, step.peer, gpu_.wire());
      break;
  }
  if (Status s = through.note(call); !s) return s;
  begun_[index] = now;
  ++issued_;
  return true;
}

/// Takes steps that are over. What a buffer holds goes to its place once the buffer is whole:
/// a copy that was queued behind a kernel would run whenever that one comes to its end, an abort that
/// takes too long included.
/// @return whether something happened
Result<bool> BucketFlow::complete(Clock::time_point now) {
  const auto receives = [](const FlowStep& step) {
    return step.kind == Kind::kBroadcastTo || step.kind == Kind::kReceive;
  };
  bool some = false;
  for (; placed_ < wired_; ++placed_) {
    const FlowStep& step = steps_[placed_];
    const std::size_t index = placed_ % begun_.size();
    auto over = gpu_.cuda().done(gpu_.device(), gpu_.events(index).wired);
    if (!over) return over;
    if (!*over) break;
    some = true;
    if (!receives(step)) continue;
    const std::span<const std::byte> bytes(gpu_.ring().at(index), step.bytes);
    if (Status s = end_.place(step, bytes, gpu_.copy()); !s) return s;
    const driver::Event placed = gpu_.events(index).placed;
    if (Status s = gpu_.cuda().record(gpu_.device(), placed, gpu_.copy()); !s) return s;
  }
  for (; done_ < placed_; ++done_) {
    const FlowStep& step = steps_[done_];
    const std::size_t index = done_ % begun_.size();
    if (receives(step)) {
      auto over = gpu_.cuda().done(gpu_.device(), gpu_.events(index).placed);
      if (!over) return over;
      if (!*over || !end_.is_let_go(step, now)) break;
    }
    base::trace_span("wire", sends(step) ? "nccl send" : "nccl receive", begun_[index], now,
                     {.bucket = step.bucket, .bytes = static_cast<std::int64_t>(step.bytes)});
    end_.done(step);
    heard_ = now;
    some = true;
  }
  return some;
}

Status run(BucketFlow& flow, Deadline deadline, const std::function<bool()>& cancelled) {
  while (true) {
    const auto now = Clock::now();
    const BucketFlow::State state = flow.poll(now);
    if (state == BucketFlow::State::kDone) return Status::ok();
    if (state == BucketFlow::State::kFailed) return flow.status();
    if (cancelled && cancelled()) flow.cancel({Code::kCancelled, "the transfer was cancelled"}, now);
    if (now >= deadline) flow.cancel({Code::kDeadline, "the transfer took too long"}, now);
    std::this_thread::sleep_for(kLookAtFlow);
  }
}

}  // namespace weightcast::transport
