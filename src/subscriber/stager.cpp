#include "subscriber/stager.hpp"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "staging/sweep.hpp"
#include "stream/transfer.hpp"
#include "subscriber/verify.hpp"

namespace weightcast::subscriber {
namespace {

/// What a copy thread takes at a time.
constexpr std::uint64_t kBucketBytes = 512 * 1024;
constexpr std::uint32_t kCreditPerThread = 4;
/// The applier's own leases are not ours to be told of: it is asked again this often.
constexpr auto kAskApplier = std::chrono::milliseconds(5);
constexpr auto kRoomWarning = std::chrono::seconds(2);
constexpr auto kSweepRetry = std::chrono::milliseconds(100);

std::uint64_t align_up(std::uint64_t bytes) {
  return (bytes + plan::kAlignment - 1) / plan::kAlignment * plan::kAlignment;
}

Status given_up() { return Status(Code::kCancelled, "the attempt was given up"); }

/// Calls into the applier, whatever it throws.
template <class Call>
Status guarded(const char* step, Call&& call) noexcept {
  try {
    return call();
  } catch (const std::exception& error) {
    return Status(Code::kInternal, std::string("the applier's ") + step + " threw: " + error.what());
  } catch (...) {
    return Status(Code::kInternal, std::string("the applier's ") + step + " threw");
  }
}

}  // namespace

Stager::Stager(StagerOptions options, std::shared_ptr<Applier> applier,
               std::shared_ptr<ImageRoom> room, std::shared_ptr<transport::Transport> transport,
               Callbacks callbacks)
    : options_(std::move(options)),
      applier_(std::move(applier)),
      room_(std::move(room)),
      transport_(std::move(transport)),
      callbacks_(std::move(callbacks)) {}

void Stager::start() {
  const base::ScopedSignalMask mask;
  thread_ = std::thread([this] { run(); });
}

Stager::~Stager() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  room_->notify();
  if (thread_.joinable()) thread_.join();
}

void Stager::perform(protocol::ReceiverAction action) {
  if (const auto* cancel = std::get_if<protocol::CancelStage>(&action)) {
    cancel_op_ = cancel->op;
    room_->notify();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(action));
  }
  work_.notify_all();
}

void Stager::run() {
  pthread_setname_np(pthread_self(), "wc-stager");
  for (;;) {
    protocol::ReceiverAction action;
    {
      std::unique_lock lock(mutex_);
      const auto ready = [&] { return stop_ || !queue_.empty(); };
      if (sweep_pending_) {
        work_.wait_for(lock, kSweepRetry, ready);
      } else {
        work_.wait(lock, ready);
      }
      if (stop_) break;
      if (!queue_.empty()) {
        action = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    act(action);
    sweep_after_run_change();
  }
  forget_staged();
}

void Stager::act(protocol::ReceiverAction& action) {
  if (auto* start = std::get_if<protocol::StartStage>(&action)) {
    if (start->op == 0) return;  // woken without an order
    const auto began = Clock::now();
    StageEvent event;
    event.op = start->op;
    std::shared_ptr<Image> image;
    event.status = stage(*start, image);
    event.took = Clock::now() - began;
    if (event.status) {
      staged_ = std::move(image);
      staged_op_ = start->op;
    }
    callbacks_.ended(std::move(event));
  } else if (auto* drop = std::get_if<protocol::DropStaged>(&action)) {
    if (staged_ && staged_op_ == drop->op) forget_staged();
  } else if (auto* turn = std::get_if<protocol::Switch>(&action)) {
    if (!staged_ || staged_op_ != turn->op) return;
    switch_to_staged();
    StageEvent event;
    event.op = turn->op;
    event.switched = true;
    callbacks_.ended(std::move(event));
  }
}

void Stager::forget_staged() {
  if (!staged_) return;
  if (applier_) applier_->rollback(staged_->version());
  staged_.reset();
}

void Stager::switch_to_staged() {
  const Version version = staged_->version();
  if (!serving_.is_none() && serving_.run != version.run) {
    former_ = serving_image_;
    sweep_pending_ = true;
  }
  if (applier_) applier_->commit(version);
  serving_ = version;
  serving_image_ = staged_;
  callbacks_.serve(std::exchange(staged_, nullptr));
  base::failpoint("engine.committed", version.number);
}

void Stager::sweep_after_run_change() {
  // The dead run's slots that this engine served from: the last one out puts out the light.
  if (!sweep_pending_ || !former_.expired()) return;
  sweep_pending_ = staging::sweep(options_.job).held != 0;
}

Status Stager::wait_for_applier(std::uint64_t op) {
  while (applier_ && !applier_->can_begin()) {
    if (cancelled(op)) return given_up();
    room_->wait(Clock::now() + kAskApplier);
  }
  return Status::ok();
}

Status Stager::wait_for_room(std::uint64_t op) {
  const auto began = Clock::now();
  while (!room_->try_enter()) {
    if (cancelled(op)) return given_up();
    if (Clock::now() - began > kRoomWarning && room_warning_.allow(Clock::now())) {
      base::log(LogLevel::kWarn,
                "event=no_room_for_next_version what=\"both images of this engine are held: end "
                "leases sooner, and clone() tensors that must outlive theirs\"");
    }
    room_->wait(Clock::now() + kSweepRetry);
  }
  return Status::ok();
}

Status Stager::stage(const protocol::StartStage& what, std::shared_ptr<Image>& staged) {
  if (cancelled(what.op)) return given_up();
  base::failpoint("engine.prepare", what.version.number);
  if (Status status = wait_for_applier(what.op); !status) return status;
  if (applier_) {
    std::vector<TensorInfo> infos;
    infos.reserve(what.manifest.tensor_count());
    for (const plan::Share& share : what.manifest.shares) {
      for (const plan::ShareEntry& entry : share.entries) infos.push_back(entry.info);
    }
    Status status = guarded("begin", [&] { return applier_->begin(what.version, infos); });
    if (!status) return status;
  }
  Status status = wait_for_room(what.op);
  if (status) {
    auto image = std::make_shared<Image>(room_, what.version, what.manifest);
    status = options_.activation == Activation::kFlip ? fill_copy(what, *image)
                                                      : fill_view(what, *image);
    if (status && cancelled(what.op)) status = given_up();
    if (status && applier_) {
      status = guarded("place", [&] { return applier_->place(image); });
    }
    if (status) staged = std::move(image);
  }
  if (!status && applier_) applier_->rollback(what.version);
  return status;
}

Result<transport::Lane*> Stager::lane_to(std::uint32_t rank) {
  std::unique_ptr<transport::Lane>& lane = lanes_[rank];
  if (!lane) {
    transport::LaneOptions lane_options;
    lane_options.copy_threads = options_.copy_threads;
    lane_options.max_in_flight = options_.copy_threads * kCreditPerThread;
    auto opened = transport_->open_lane(lane_options);
    if (!opened) return opened.status();
    lane = std::move(*opened);
  }
  return lane.get();
}

Result<std::shared_ptr<transport::Segment>> Stager::acquire(const Version& version,
                                                            const plan::Share& share) {
  auto lane = lane_to(share.rank);
  if (!lane) return lane.status();
  return (*lane)->acquire({share.object, version, share.generation, share.payload_bytes});
}

Status Stager::fill_view(const protocol::StartStage& what, Image& image) {
  for (const plan::Share& share : what.manifest.shares) {
    auto segment = acquire(what.version, share);
    if (!segment) return segment.status();
    const std::span<std::byte> payload = (*segment)->view();
    if (payload.size() < share.payload_bytes) {
      return Status(Code::kMismatch, "this transport cannot show bytes in place; use activation flip");
    }
    if (options_.verify_view) {
      ShareVerifier verifier(share);
      verifier.add(0, payload.first(share.payload_bytes));
      if (Status status = verifier.check(); !status) return status;
    }
    base::failpoint("engine.copying", what.version.number);
    image.place_share(share, payload.data());
    image.hold_segment(std::move(*segment));
  }
  return Status::ok();
}

Status Stager::fill_copy(const protocol::StartStage& what, Image& image) {
  std::uint64_t total = 0;
  for (const plan::Share& share : what.manifest.shares) total += align_up(share.payload_bytes);
  auto buffer = room_->buffer(total);
  if (!buffer) return buffer.status();
  image.hold_buffer(std::move(*buffer));
  std::byte* destination = image.buffer_bytes().data();
  for (const plan::Share& share : what.manifest.shares) {
    auto segment = acquire(what.version, share);
    if (!segment) return segment.status();
    ShareVerifier verifier(share);
    std::vector<transport::Bucket> buckets;
    for (std::uint64_t offset = 0; offset < share.payload_bytes; offset += kBucketBytes) {
      const std::uint64_t bytes = std::min(kBucketBytes, share.payload_bytes - offset);
      transport::Bucket bucket;
      bucket.offset = offset;
      bucket.destination = {destination + offset, bytes};
      bucket.place = [&verifier, &what, offset, to = destination + offset](
                         std::size_t at, std::span<const std::byte> source) {
        base::failpoint("engine.copying", what.version.number);
        verifier.place(offset + at, to + at, source);
      };
      buckets.push_back(std::move(bucket));
    }
    auto lane = lane_to(share.rank);
    if (!lane) return lane.status();
    Status status = stream::move_buckets(**lane, *segment, std::move(buckets),
                                         options_.copy_threads * kCreditPerThread,
                                         [&] { return cancelled(what.op); });
    if (!status) return status;
    if (status = verifier.check(); !status) return status;
    image.place_share(share, destination);
    destination += align_up(share.payload_bytes);
  }
  return Status::ok();
}

}  // namespace weightcast::subscriber
