#include "publisher/nccl_source.hpp"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <system_error>
#include <utility>

#include "base/failpoint.hpp"
#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "stream/nccl_identity.hpp"
#include "stream/nccl_steps.hpp"

namespace weightcast::publisher {
namespace {

using transport::BucketFlow;
using transport::NcclGpu;
using transport::SessionAnswer;

using transport::kLookAtFlow;

/// The kernel's own 50 us would double the time between looks at a flow.
constexpr auto kTimerSlack = std::chrono::nanoseconds(5000);
/// Between looks at engines that gather or communicators that end; and where nothing is to be done.
constexpr auto kLookAtSessions = std::chrono::milliseconds(2);
constexpr auto kLookWhenIdle = std::chrono::seconds(1);

std::string group_of(std::uint64_t session) { return "session " + std::to_string(session); }

}  // namespace

NcclSource::NcclSource(std::shared_ptr<driver::Nccl> nccl, NcclSourceOptions options,
                       std::string identity)
    : nccl_(std::move(nccl)),
      options_(std::move(options)),
      identity_(std::move(identity)),
      host_(options_.session) {}

Result<std::unique_ptr<NcclSource>> NcclSource::start(std::shared_ptr<driver::Nccl> nccl,
                                                      std::shared_ptr<driver::Cuda> cuda,
                                                      NcclSourceOptions options) {
  auto identity = stream::nccl_identity(*cuda, options.device);
  if (!identity) return identity.status();
  options.gpu.bucket_bytes = stream::nccl_bucket_bytes(options.slot_bytes);
  auto gpu = NcclGpu::open(nccl, std::move(cuda), options.device, options.gpu);
  if (!gpu) return gpu.status();
  std::unique_ptr<NcclSource> source(
      new NcclSource(std::move(nccl), std::move(options), std::move(*identity)));
  source->gpu_ = std::move(*gpu);
  const base::ScopedSignalMask mask;
  try {
    source->thread_ = std::thread([raw = source.get()] { raw->run(); });
  } catch (const std::system_error& error) {
    return Status(Code::kExhausted, std::string("cannot start the thread for NCCL: ") +
                                        error.what() + "; raise the limit on threads (ulimit -u)");
  }
  return source;
}

NcclSource::~NcclSource() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

// ---- any thread -------------------------------------------------------------------------------

void NcclSource::sealed(const transport::SegmentAddress& address,
                        std::span<const std::byte> payload) {
  const std::lock_guard lock(mutex_);
  sealed_[address.object] = {address, payload.first(address.payload_bytes)};
}

SessionAnswer NcclSource::refuse(Status why) const {
  return {.kind = SessionAnswer::Kind::kRefuse, .status = std::move(why)};
}

const NcclSource::Slot* NcclSource::find(const transport::SessionAsk& ask) const {
  const auto found = std::find_if(sealed_.begin(), sealed_.end(), [&](const auto& it) {
    return it.second.address.version == ask.version &&
           it.second.address.generation == ask.generation;
  });
  return found == sealed_.end() ? nullptr : &found->second;
}

SessionAnswer NcclSource::ask(const transport::SessionAsk& ask) {
  const std::lock_guard lock(mutex_);
  if (stop_ || is_lost_) {
    return refuse({Code::kUnavailable, "the source has no NCCL any more; see the trainer's log"});
  }
  const Slot* const slot = find(ask);
  if (slot == nullptr) {
    return refuse({Code::kStale, "the source does not have that version (any more)"});
  }
  const auto now = Clock::now();
  const bool is_offered = offered_ && offered_->address.version == ask.version &&
                          offered_->address.generation == ask.generation;
  if (!is_offered) {
    if (offered_) host_.gone(ask.name, now);
    // One version after the other.
    if (offered_ && !host_.is_idle()) return {};
    if (served_ != 0) expected_ = std::exchange(served_, 0);
    offered_ = *slot;
    hold_.reset();
    host_.offer({ask.version, ask.generation, stream::nccl_plan(slot->address.payload_bytes),
                 identity_, nccl_->version(), expected_},
                now);
  }
  SessionAnswer answer = host_.ask(ask, now);
  if (host_.is_idle()) return answer;
  if (!hold_) {
    auto held = locks_.hold(offered_->address);
    if (!held) {
      host_.withdraw(now);
      offered_.reset();
      return refuse({Code::kStale, held.status().message()});
    }
    hold_ = std::make_shared<transport::SlotHold>(std::move(*held));
  }
  if (!std::exchange(is_woken_, true)) wake_.notify_all();
  return answer;
}

// ---- the thread -------------------------------------------------------------------------------

void NcclSource::run() {
  ::pthread_setname_np(::pthread_self(), "wc-nccl");
  ::prctl(PR_SET_TIMERSLACK, kTimerSlack.count());
  for (;;) {
    bool is_flowing = false;
    try {
      is_flowing = turn();
    } catch (const std::exception& error) {
      // Memory is short: engines ask again.
      const Status why(Code::kExhausted, error.what());
      base::log(LogLevel::kError, "nccl_turn_failed", {{"why", why.message()}});
      if (running_) fail(*running_, why, Clock::now());
    }
    std::unique_lock lock(mutex_);
    if (stop_) break;
    const bool is_busy = !host_.is_idle() || running_ ||
                         gpu_->communicators() != gpu_->resting() || !gpu_->status();
    if (is_flowing) {
      wake_.wait_for(lock, kLookAtFlow, [&] { return stop_; });
    } else {
      wake_.wait_for(lock, is_busy && !is_lost_ ? Duration(kLookAtSessions) : Duration(kLookWhenIdle),
                     [&] { return stop_ || is_woken_; });
    }
    is_woken_ = false;
  }
  if (running_) fail(*running_, {Code::kCancelled, "the trainer ends"}, Clock::now());
  [[maybe_unused]] const Status in_peace = gpu_->close(Clock::now() + options_.gpu.leave);
  const auto deadline = Clock::now() + options_.gpu.abort;
  while (!gpu_->status() && !gpu_->is_lost() && Clock::now() < deadline) {
    gpu_->poll(Clock::now());
    std::this_thread::sleep_for(kLookAtSessions);
  }
  if (!gpu_->status()) keep_memory();
  gpu_.reset();
  running_.reset();
}

/// A kernel that does not end may go on reading: this memory is never freed.
void NcclSource::keep_memory() {
  static std::mutex mutex;
  static auto* const kept = new std::vector<std::shared_ptr<const void>>;
  const std::lock_guard lock(mutex);
  kept->push_back(options_.holds);
}

/// @return whether a flow is running
bool NcclSource::turn() {
  const auto now = Clock::now();
  gpu_->poll(now);
  std::vector<Action> actions;
  {
    const std::lock_guard lock(mutex_);
    if (gpu_->is_lost() && !std::exchange(is_lost_, true)) {
      base::log(LogLevel::kError, "nccl_lost",
                {{"why", gpu_->status().message()}, {"next", "engines take other transports"}});
      keep_memory();
      host_.withdraw(now);
      offered_.reset();
    }
    // The next session begins when this one has ended.
    if (!running_) forget_lost_communicators();
    host_.tick(now);
    actions = host_.take_actions();
    if (host_.is_idle() && !running_ && actions.empty()) hold_.reset();
  }
  for (const Action& action : actions) act(action);
  if (running_) advance(now);
  return running_ && !running_->has_ended;
}

/// With mutex_.
void NcclSource::forget_lost_communicators() {
  for (const std::uint64_t session : host_.kept()) {
    if (gpu_->find(group_of(session)) == nullptr) host_.kept_lost(session);
  }
}

void NcclSource::act(const Action& action) {
  switch (action.kind) {
    case Action::Kind::kMakeId: {
      const auto id = nccl_->unique_id();
      const std::lock_guard lock(mutex_);
      host_.id_made(action.session, id, Clock::now());
      is_woken_ = true;
      return;
    }
    case Action::Kind::kStart: {
      const std::lock_guard lock(mutex_);
      running_.emplace();
      running_->start = action;
      if (offered_) running_->slot = *offered_;
      running_->hold = hold_;
      return;
    }
    case Action::Kind::kAbort:
      if (running_ && running_->start.session == action.session && !running_->has_ended) {
        fail(*running_, {Code::kCancelled, "a member has given it up"}, Clock::now());
      }
      return;
    case Action::Kind::kDrop:
      gpu_->drop(group_of(action.session), {Code::kCancelled, "its members have changed"},
                 Clock::now());
      return;
  }
}

void NcclSource::join(Running& running, Clock::time_point now) {
  if (!running.hold) return fail(running, {Code::kStale, "the slot is not held any more"}, now);
  if (running.start.kept != 0) {
    running.group = group_of(running.start.kept);
    return;
  }
  const std::string group = group_of(running.start.session);
  const transport::CommPlace seat{running.start.id, 0, running.start.size, running.start.session,
                                  options_.session.blocks};
  if (Status s = gpu_->join(group, seat, now); !s) return fail(running, std::move(s), now);
  running.group = group;
}

/// When all members are in, which takes a second where it is a process's first communicator.
void NcclSource::begin(Running& running, Clock::time_point now) {
  const transport::Communicator* const communicator = gpu_->find(running.group);
  if (communicator == nullptr) {
    // It failed; its quarantine may be over by now.
    return fail(running,
                gpu_->status() ? Status(Code::kUnavailable, "the communicator failed")
                               : Status(gpu_->status()),
                now);
  }
  if (communicator->state() != transport::Communicator::State::kReady) return;
  const std::uint64_t payload_bytes = running.slot.payload.size();
  const std::uint64_t bucket_bytes = stream::nccl_bucket_bytes(payload_bytes);
  std::vector<transport::NcclBucketBytes> buckets(stream::nccl_buckets(payload_bytes));
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const std::uint64_t offset = i * bucket_bytes;
    buckets[i] = {0, offset, std::min(bucket_bytes, payload_bytes - offset), {}};
  }
  const std::uint64_t number = running.slot.address.version.number;
  auto sender = transport::NcclSender::make(
      *gpu_, {{running.slot.payload, nullptr}}, std::move(buckets),
      [number](std::uint32_t) { base::failpoint("trainer.sending", number); });
  if (!sender) return fail(running, sender.status(), now);
  running.sender = std::move(*sender);
  running.flow = std::make_unique<BucketFlow>(
      *gpu_, std::vector<std::string>{running.group},
      stream::nccl_steps(payload_bytes, running.start.first, 0, running.start.size),
      *running.sender, now);
}

void NcclSource::fail(Running& running, Status why, Clock::time_point now) {
  if (running.has_ended) return;
  running.has_ended = true;
  running.status = std::move(why);
  if (running.flow) {
    running.flow->cancel(running.status, now);
  } else if (!running.group.empty()) {
    gpu_->fail({running.group}, running.status, now);
  }
  running.flow.reset();
  base::log(LogLevel::kWarn, "nccl_session_failed",
            {{"version", to_string(running.slot.address.version)},
             {"engines", running.start.receivers.size() + running.start.neighbours},
             {"why", running.status.message()}});
  const std::lock_guard lock(mutex_);
  host_.flow_failing(running.start.session);
}

void NcclSource::advance(Clock::time_point now) {
  Running& running = *running_;
  const bool has_room = running.start.kept != 0 ||
                        gpu_->communicators() < gpu_->options().max_communicators;
  if (!running.has_ended && running.group.empty() && gpu_->status() && has_room) join(running, now);
  if (!running.has_ended && !running.group.empty() && !running.flow) begin(running, now);
  if (running.flow) {
    const BucketFlow::State state = running.flow->poll(now);
    if (state == BucketFlow::State::kFailed) {
      fail(running, Status(running.flow->status()), now);
    } else if (state == BucketFlow::State::kDone) {
      running.flow.reset();
      if (!running.start.keeps) gpu_->leave(running.group, now);
      running.has_ended = true;
    }
  }
  if (gpu_->is_lost() && !running.has_ended) fail(running, gpu_->status(), now);
  if (!running.has_ended) return;
  // Until the buckets are out of quarantine a copy may read the slot.
  if (!running.status && !gpu_->status() && !gpu_->is_lost()) return;
  const std::lock_guard lock(mutex_);
  if (running.status && offered_ && offered_->address.version == running.slot.address.version) {
    served_ += static_cast<std::uint32_t>(running.start.receivers.size() + running.start.neighbours);
  }
  host_.flow_ended(running.start.session, running.status, now);
  running_.reset();
}

}  // namespace weightcast::publisher
