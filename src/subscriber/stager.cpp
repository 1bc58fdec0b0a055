#include "subscriber/stager.hpp"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <utility>

#include "base/failpoint.hpp"
#include "base/signal_mask.hpp"
#include "base/trace.hpp"
#include "staging/sweep.hpp"

namespace weightcast::subscriber {
namespace {

constexpr std::uint32_t kCreditPerThread = 4;
/// Looks at a device are 50 us apart, which the kernel's own slack would double.
constexpr auto kTimerSlack = std::chrono::nanoseconds(5000);
constexpr auto kSweepRetry = std::chrono::milliseconds(100);

transport::LaneOptions lane_options(const SubscriberOptions& options) {
  transport::LaneOptions lane;
  lane.copy_threads = options.copy_threads;
  lane.max_in_flight = options.copy_threads * kCreditPerThread;
  return lane;
}

}  // namespace

Stager::Stager(const SubscriberOptions& options, std::shared_ptr<Applier> applier,
               std::shared_ptr<ImageRoom> room, std::shared_ptr<LeaseBook> leases,
               TransportSet transports, StagerHost& host)
    : options_(options),
      applier_(std::move(applier)),
      fixed_addresses_(applier_ && applier_->wants_fixed_addresses()),
      room_(std::move(room)),
      host_(host),
      sources_(std::move(transports), options.transport, lane_options(options)),
      joined_in_place_(options.activation == Activation::kSerial),
      in_place_({.lease_deadline = options.lease_deadline, .copy_threads = options.copy_threads}, applier_, room_, std::move(leases),
                host,
                [this](Incoming& incoming, std::span<std::byte> image) {
                  host_.happened({.kind = StageEvent::Kind::kDirty});
                  return fetch(incoming, image);
                },
                [this](std::uint64_t op) { return cancelled(op); }) {}

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
  prctl(PR_SET_TIMERSLACK, kTimerSlack.count());
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
  ahead_.reset();
  forget_staged();
}

void Stager::act(protocol::ReceiverAction& action) {
  if (auto* ahead = std::get_if<protocol::ReadAhead>(&action)) return read_ahead(*ahead);
  if (auto* start = std::get_if<protocol::StartStage>(&action)) {
    if (start->op != 0) start_stage(*start);  // else woken without an order
  } else if (auto* drop = std::get_if<protocol::DropStaged>(&action)) {
    if (staged_ && staged_->op == drop->op) forget_staged();
  } else if (auto* turn = std::get_if<protocol::Switch>(&action)) {
    if (staged_ && staged_->op == turn->op) switch_to_staged();
  }
  ahead_.reset();  // what was read ahead was this operation's, or is of no more use
}

void Stager::start_stage(protocol::StartStage& start) {
  const auto began = Clock::now();
  received_ += progress_.exchange(0);
  staged_.emplace();
  staged_->op = start.op;
  staged_->version = start.version;
  staged_->manifest = std::move(start.manifest);
  const bool was_in_place = joined_in_place_;
  StageEvent event;
  event.op = start.op;
  event.status = stage(start.relay, *staged_);
  event.took = Clock::now() - began;
  base::trace_span("stage", event.status ? "stage" : "stage failed", began, began + event.took,
                   {.version = start.version.number});
  if (joined_in_place_ != was_in_place) event.kind = StageEvent::Kind::kBecomeInPlace;
  if (!event.status) staged_.reset();
  host_.happened(std::move(event));
}

void Stager::forget_staged() {
  if (!staged_) return;
  if (applier_) applier_->rollback(staged_->version);
  staged_.reset();
}

void Stager::switch_to_staged() {
  const std::uint64_t op = staged_->op;
  const Version version = staged_->version;
  const base::TraceScope span("switch", "switch", {.version = version.number});
  std::shared_ptr<Image> image = std::move(staged_->image);
  if (!image) {
    auto taken_in = in_place_.take_in(*staged_);
    staged_.reset();
    if (!taken_in) {
      if (!stop_) report_failed_switch(op, version, taken_in.status());
      return;
    }
    image = std::move(*taken_in);
  }
  staged_.reset();
  if (!serving_.is_none() && serving_.run != version.run) {
    former_ = serving_image_;
    sweep_pending_ = true;
  }
  if (applier_) applier_->commit(version);
  serving_ = version;
  serving_image_ = image;
  dirty_ = Version{};
  host_.serve(std::move(image));
  host_.happened({.kind = StageEvent::Kind::kSwitched, .op = op});
  host_.happened({.kind = StageEvent::Kind::kClean});
  base::failpoint("engine.committed", version.number);
}

void Stager::report_failed_switch(std::uint64_t op, const Version& version, const Status& status) {
  base::log(LogLevel::kWarn, "switch_failed",
            {{"version", to_string(version)}, {"why", status.to_string()}});
  if (!in_place_.left_alone()) {
    host_.withdraw("version " + std::to_string(version.number) + " could not be taken in place: " +
                   status.to_string() + "; leases are given again once it, or a newer one, is in");
    dirty_ = std::max(dirty_, version);
    host_.happened({.kind = StageEvent::Kind::kDirty});
  }
  host_.happened({.kind = StageEvent::Kind::kSwitchFailed, .op = op, .status = status});
}

void Stager::sweep_after_run_change() {
  // The dead run's slots that this engine served from: the last one out puts out the light.
  if (!sweep_pending_ || !former_.expired()) return;
  sweep_pending_ = staging::sweep(options_.job).held != 0;
}

}  // namespace weightcast::subscriber
