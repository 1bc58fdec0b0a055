#include "transport/nccl/neighbour_flow.hpp"

#include <algorithm>
#include <utility>

#include "base/trace.hpp"

namespace weightcast::transport {

using staging::BoardSeat;

namespace {

/// Of a ring that a board may speak of.
constexpr std::uint32_t kMostBuckets = 1024;
constexpr std::uint64_t kMostBucketBytes = std::uint64_t{1} << 32;

}  // namespace

NeighbourFlow::NeighbourFlow(NcclGpu& gpu, std::string board, const staging::BoardFlow& flow,
                             std::uint32_t seat, std::vector<FlowStep> steps, BucketEnd& end,
                             Clock::time_point now)
    : gpu_(gpu),
      board_(std::move(board)),
      flow_(flow),
      seat_index_(seat),
      steps_(std::move(steps)),
      end_(end),
      begun_(gpu.ring().count()),
      heard_(now) {}

NeighbourFlow::~NeighbourFlow() {
  if (seat_) seat_->leave();
}

NeighbourFlow::State NeighbourFlow::fail(Status why) {
  if (seat_) seat_->leave();
  status_ = std::move(why);
  return state_ = State::kFailed;
}

NeighbourFlow::State NeighbourFlow::poll(Clock::time_point now) {
  if (state_ != State::kRunning) return state_;
  if (taken_ == steps_.size()) return state_ = State::kDone;
  if (!seat_) {
    auto opened = BoardSeat::open(board_, flow_, seat_index_);
    is_cut_off_ = !opened;
    if (!opened) return fail(opened.status());
    seat_ = std::move(*opened);
  }
  const BoardSeat::State seen = seat_->look();
  if (seen == BoardSeat::State::kOver) return fail({Code::kUnavailable, seat_->why()});
  if (seen == BoardSeat::State::kOpen) {
    if (!memory_) {
      Status s = come_in();
      is_cut_off_ = !s;
      if (!s) return fail(std::move(s));
      heard_ = now;
    }
    if (Status s = take(now); !s) return fail(std::move(s));
    if (Status s = queue(now); !s) return fail(std::move(s));
  }
  if (taken_ == steps_.size()) return state_ = State::kDone;
  // Before the first bucket the leader joins a communicator.
  const Duration patience =
      gpu_.options().silence + (queued_ == 0 ? gpu_.options().join : Duration::zero());
  if (now - heard_ > patience) {
    return fail({Code::kDeadline, "no bucket came from the leader of this engine's place for " +
                                      std::to_string(std::chrono::duration_cast<
                                                         std::chrono::milliseconds>(patience)
                                                         .count()) +
                                      " ms: it is stopped"});
  }
  return state_;
}

/// Opens the leader's ring. What the board says of it is another process's word.
Status NeighbourFlow::come_in() {
  const staging::BoardRing& ring = seat_->ring();
  const std::uint64_t largest =
      std::max_element(steps_.begin(), steps_.end(), [](const FlowStep& a, const FlowStep& b) {
        return a.bytes < b.bytes;
      })->bytes;
  if (seat_->first() != flow_.first || ring.bucket_bytes < largest ||
      ring.bucket_bytes > kMostBucketBytes || ring.buckets > kMostBuckets) {
    return {Code::kMismatch, "expected buckets of at least " + std::to_string(largest) +
                                 " bytes from number " + std::to_string(flow_.first) +
                                 " on, the leader has " + std::to_string(ring.buckets) + " of " +
                                 std::to_string(ring.bucket_bytes) + " from " +
                                 std::to_string(seat_->first())};
  }
  auto opened = OpenedMemory::open(gpu_.shared_cuda(), gpu_.device(), board_, ring.memory);
  if (!opened) return opened.status();
  memory_ = std::move(*opened);
  return Status::ok();
}

/// Counts copies that are over.
Status NeighbourFlow::take(Clock::time_point now) {
  for (; taken_ < queued_; ++taken_) {
    const std::size_t index = taken_ % begun_.size();
    auto over = gpu_.cuda().done(gpu_.device(), gpu_.events(index).placed);
    if (!over) return over.status();
    if (!*over) break;
    const FlowStep& step = steps_[taken_];
    // What was written to meanwhile is not counted.
    if (!seat_->take(step.bucket)) return {Code::kUnavailable, "the leader did not wait any longer"};
    base::trace_span("wire", "ipc receive", begun_[index], now,
                     {.bucket = step.bucket, .bytes = static_cast<std::int64_t>(step.bytes)});
    end_.done(step);
    heard_ = now;
  }
  return Status::ok();
}

Status NeighbourFlow::queue(Clock::time_point now) {
  const staging::BoardRing& ring = seat_->ring();
  const std::uint32_t whole = seat_->whole();
  for (; queued_ < steps_.size() && queued_ - taken_ < begun_.size(); ++queued_) {
    const FlowStep& step = steps_[queued_];
    if (step.bucket >= whole) break;
    const std::uint64_t slot = (step.bucket - flow_.first) % ring.buckets;
    const std::byte* const from = memory_->data() + slot * ring.bucket_bytes;
    if (Status s = end_.place(step, {from, step.bytes}, gpu_.copy()); !s) return s;
    const std::size_t index = queued_ % begun_.size();
    if (Status s = gpu_.cuda().record(gpu_.device(), gpu_.events(index).placed, gpu_.copy()); !s) {
      return s;
    }
    begun_[index] = now;
  }
  return Status::ok();
}

}  // namespace weightcast::transport
