#include <weightcast/subscriber.hpp>

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "base/clock.hpp"
#include "base/config.hpp"
#include "base/failpoint.hpp"
#include "base/host.hpp"
#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "base/trace_use.hpp"
#include "driver/cuda.hpp"
#include "driver/nccl.hpp"
#include "metrics/use.hpp"
#include "protocol/receiver.hpp"
#include "stream/coordinator_link.hpp"
#include "stream/job_keys.hpp"
#include "stream/rendezvous.hpp"
#include "stream/wait.hpp"
#include "stream/waker.hpp"
#include "subscriber/attempt_counts.hpp"
#include "subscriber/device_memory.hpp"
#include "subscriber/host_memory.hpp"
#include "subscriber/leases.hpp"
#include "subscriber/network.hpp"
#include "subscriber/options.hpp"
#include "subscriber/serving.hpp"
#include "subscriber/subscriber_metrics.hpp"
#include "subscriber/stager.hpp"
#include "subscriber/stager_host.hpp"

namespace weightcast {
namespace {

constexpr auto kFarewell = std::chrono::milliseconds(100);  ///< for the Bye to go out
constexpr int kMaxMessagesATurn = 256;

using subscriber::Image;
using subscriber::StageEvent;
using Kind = StageEvent::Kind;

protocol::ReceiverConfig receiver_config(const SubscriberOptions& options,
                                         const std::string& relay_endpoint) {
  protocol::ReceiverConfig config;
  config.name = options.name;
  config.policy = options.policy;
  config.in_place = options.activation == Activation::kSerial;
  config.over_network = subscriber::is_over_network(options);
  config.relay_endpoint = relay_endpoint;
  config.clock = base::host_identity();
  config.host = base::host_name();
  config.pid = static_cast<std::uint64_t>(::getpid());
  config.heartbeat = options.heartbeat;
  config.member_timeout = options.member_timeout;
  config.incarnation = base::unix_us();
  return config;
}

/// What an event changes in what the user is told.
void note(const StageEvent& event, SubscriberStatus& status) {
  switch (event.kind) {
    case Kind::kSwitched:
      ++status.applied;
      status.last_failure.clear();
      break;
    case Kind::kStaged:
    case Kind::kSwitchFailed:
    case Kind::kBecomeInPlace:
      if (event.status) {
        status.last_stage = event.took;
      } else if (subscriber::AttemptCounts::is_failure(event)) {
        ++status.failed;
        status.last_failure = event.status.to_string();
      }
      break;
    case Kind::kDirty: status.dirty = true; break;
    case Kind::kClean: status.dirty = false; break;
    case Kind::kChosen:
      status.activation = event.activation;
      status.activation_reason = event.text;
      break;
    case Kind::kSources:
      status.transport = event.text;
      status.transport_reason = event.why;
      break;
  }
}

protocol::ReceiverReport report_of(const SubscriberStatus& status) {
  const bool is_chosen = status.applied != 0 || !status.transport.empty();
  return {.activation = is_chosen ? subscriber::activation_name(status.activation) : "",
          .activation_reason = status.activation_reason,
          .transport = status.transport,
          .transport_reason = status.transport_reason,
          .received_bytes = status.received_bytes,
          .leases = status.leases};
}

Status without_cuda(const SubscriberOptions& options, const Status& why) {
  return Status(why.code(), "device is " + std::to_string(options.device) + ", but " +
                                why.message() + "; with device = -1 versions lie in host memory");
}

/// What option transport = nccl lacks here.
Status without_nccl(const SubscriberOptions& options) {
  if (options.transport != TransportChoice::kNccl) return Status::ok();
  if (options.device < 0) {
    return Status(Code::kInvalid,
                  "transport = nccl takes versions into a device's memory, and device is none: set "
                  "device, or transport to auto");
  }
  const auto nccl = driver::load_nccl();
  if (nccl) return Status::ok();
  return Status(nccl.status().code(), "transport = nccl, but " + nccl.status().message() +
                                          "; with transport = auto versions come another way");
}

}  // namespace

class Subscriber::Impl : public subscriber::StagerHost {
 public:
  /// @param cuda null where images lie in host memory
  Impl(SubscriberOptions options, base::TraceUse trace, metrics::Use shown, std::string place, stream::Keys keys,
       std::shared_ptr<Applier> applier, std::shared_ptr<driver::Cuda> cuda,
       std::shared_ptr<subscriber::ImageMemory> memory);
  ~Impl() override;

  Status start();
  subscriber::Serving& serving() noexcept { return serving_; }
  const SubscriberOptions& options() const noexcept { return options_; }

 private:
  void run();
  void turn();
  void pump();
  void take_events();
  void obey(const StageEvent& event);
  void flush_machine();
  void seek();
  void publish_state();

  void happened(StageEvent event) override;
  void serve(std::shared_ptr<Image> image) override { serving_.serve(std::move(image)); }
  void pause(std::string why) override { serving_.pause(std::move(why)); }
  void resume(std::shared_ptr<Image> image) override { serving_.resume(std::move(image)); }
  std::shared_ptr<Image> withdraw(std::string why) override {
    return serving_.withdraw(std::move(why));
  }

  const SubscriberOptions options_;
  const base::TraceUse trace_;  ///< ends after all that has spans
  const std::string place_;
  const std::shared_ptr<subscriber::ImageRoom> room_;
  const std::shared_ptr<subscriber::LeaseBook> leases_ =
      std::make_shared<subscriber::LeaseBook>(room_);
  subscriber::Serving serving_{options_, place_, leases_};
  subscriber::Network network_;
  stream::Waker waker_;
  std::atomic<bool> stop_{false};

  std::mutex mutex_;
  std::vector<StageEvent> events_;

  // The I/O thread's own.
  std::optional<protocol::Receiver> receiver_;  ///< from start() on: it says where this engine serves
  stream::CoordinatorLink link_;
  std::unique_ptr<subscriber::Stager> stager_;
  subscriber::AttemptCounts attempts_;
  std::thread thread_;
  metrics::Use metrics_;
};

Subscriber::Impl::Impl(SubscriberOptions options, base::TraceUse trace, metrics::Use shown,
                       std::string place, stream::Keys keys, std::shared_ptr<Applier> applier,
                       std::shared_ptr<driver::Cuda> cuda,
                       std::shared_ptr<subscriber::ImageMemory> memory)
    : options_(std::move(options)),
      trace_(std::move(trace)),
      place_(std::move(place)),
      room_(std::make_shared<subscriber::ImageRoom>(options_.job, std::move(memory))),
      network_(options_, place_, std::move(cuda)),
      link_({place_, options_.coordinator, std::move(keys)}),
      metrics_(std::move(shown)) {
  serving_.update([&](SubscriberStatus& status) {
    const bool chosen = options_.activation != Activation::kAuto;
    status.activation = chosen ? options_.activation : Activation::kView;
    status.activation_reason =
        chosen ? "chosen by the configuration" : "auto: chosen when the first version comes";
  });
  stager_ = std::make_unique<subscriber::Stager>(options_, std::move(applier), room_, leases_,
                                                 network_.transports(), *this);
}

Status Subscriber::Impl::start() {
  if (Status status = network_.serve(serving_.store()); !status) return status;
  receiver_.emplace(receiver_config(options_, network_.relay_endpoint()), Clock::now());
  stager_->start();
  const base::ScopedSignalMask mask;
  thread_ = std::thread([this] { run(); });
  metrics_.watch([this](metrics::Samples& samples) {
    subscriber::add_samples(options_, serving_, *leases_, attempts_, samples);
  });
  return Status::ok();
}

Subscriber::Impl::~Impl() {
  metrics_ = {};  // nobody looks after this
  stop_ = true;
  waker_.wake();
  serving_.stop();
  if (thread_.joinable()) thread_.join();
  stager_.reset();
}

void Subscriber::Impl::run() {
  pthread_setname_np(pthread_self(), "wc-receiver");
  while (!stop_) {
    try {
      turn();
    } catch (const std::exception& error) {
      base::log(LogLevel::kError, "receiver_loop_failed", {{"why", error.what()}});
      return;
    }
  }
  // Its thread may not have told yet of the switch that leases see already.
  receiver_->leave(Clock::now(), serving_.status().serving);
  flush_machine();
  link_.close(kFarewell);
}

void Subscriber::Impl::turn() {
  const auto before = Clock::now();
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(receiver_->next_wakeup() - before);
  stream::wait_for_work(
      waker_, {link_.handle()},
      std::clamp(wait, std::chrono::milliseconds(0), std::chrono::milliseconds(1000)));
  // What came while this process did not run is heard before the clock is looked at.
  pump();
  take_events();
  const auto now = Clock::now();
  const auto oldest = leases_->oldest_but(receiver_->serving());
  receiver_->set_lagging(now, stager_->switch_overdue() ||
                                 (oldest && now - *oldest > options_.lease_deadline));
  receiver_->set_progress(stager_->progress());
  if (receiver_->wants_report(now)) receiver_->set_report(report_of(serving_.status()));
  receiver_->tick(now);
  flush_machine();
  publish_state();
  seek();
}

void Subscriber::Impl::pump() {
  for (int i = 0; i < kMaxMessagesATurn; ++i) {
    const auto message = link_.receive();
    if (!message) return;
    receiver_->receive(Clock::now(), *message);
  }
}

void Subscriber::Impl::happened(StageEvent event) {
  {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  waker_.wake();
}

void Subscriber::Impl::take_events() {
  std::vector<StageEvent> events;
  {
    const std::lock_guard lock(mutex_);
    events.swap(events_);
  }
  if (events.empty()) return;
  for (const StageEvent& event : events) attempts_.note(event);
  serving_.update([&](SubscriberStatus& status) {
    for (const StageEvent& event : events) note(event, status);
  });
  for (const StageEvent& event : events) obey(event);
}

void Subscriber::Impl::obey(const StageEvent& event) {
  const auto now = Clock::now();
  switch (event.kind) {
    case Kind::kStaged: receiver_->stage_done(now, event.op, event.status); break;
    case Kind::kSwitched: receiver_->switched(now, event.op); break;
    case Kind::kSwitchFailed: receiver_->switch_failed(now, event.op, event.status); break;
    case Kind::kDirty: receiver_->set_dirty(now, true); break;
    case Kind::kClean: receiver_->set_dirty(now, false); break;
    case Kind::kBecomeInPlace:
      receiver_->become_in_place(now);
      receiver_->stage_done(now, event.op, event.status);
      break;
    case Kind::kChosen:
    case Kind::kSources: break;
  }
}

void Subscriber::Impl::flush_machine() {
  for (auto& action : receiver_->take_actions()) stager_->perform(std::move(action));
  for (const auto& message : receiver_->take_outbox()) {
    link_.send(message);
    const auto* state = std::get_if<protocol::ReceiverState>(&message.body);
    if (state != nullptr && state->phase == protocol::Phase::kStaged) {
      base::failpoint("engine.staged", 0);
    }
  }
}

void Subscriber::Impl::publish_state() {
  serving_.set_refused(receiver_->refused());
  serving_.update([&](SubscriberStatus& status) {
    status.run = receiver_->run();
    status.published = receiver_->published();
    status.attached = receiver_->attached();
    status.rejoined = receiver_->rejoined();
    status.lagging = receiver_->lagging();
    status.dropped_messages = link_.malformed();
    status.received_bytes = stager_->received();
    network_.note_counters(status);
  });
}

void Subscriber::Impl::seek() {
  if (receiver_->attached()) return;
  link_.seek(Clock::now(), [this] { return receiver_->take_reconnect(); });
}

// ---- the public face ------------------------------------------------------------------------

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    release();
    image_ = std::move(other.image_);
    ticket_ = std::move(other.ticket_);
  }
  return *this;
}

Lease::~Lease() { release(); }

void Lease::release() noexcept {
  // Images are all of one kind.
  if (image_) static_cast<Image*>(image_.get())->read_by_any();
  image_.reset();
  ticket_.reset();
}

void Lease::release_after(void* stream) noexcept {
  if (image_) static_cast<Image*>(image_.get())->read_by(stream);
  image_.reset();
  ticket_.reset();
}

Subscriber::Subscriber(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Subscriber::Subscriber(Subscriber&&) noexcept = default;
Subscriber& Subscriber::operator=(Subscriber&&) noexcept = default;
Subscriber::~Subscriber() = default;

Result<Subscriber> Subscriber::open(SubscriberOptions options, std::shared_ptr<Applier> applier) {
  try {
    if (Status status = subscriber::complete_options(options); !status) return status;
    if (Status status = without_nccl(options); !status) return status;
    auto place = stream::meeting_place(options.directory,
                                       base::environment("XDG_RUNTIME_DIR").value_or(""),
                                       options.job, options.policy);
    if (!place) return place.status();
    auto keys = stream::control_keys({*place, options.keys, {}, options.coordinator},
                                     keys::Role::kEngine);
    if (!keys) return keys.status();
    auto trace = base::TraceUse::open(options.trace, options.name, "engine " + options.name);
    if (!trace) return trace.status();
    auto shown = metrics::Use::open(options.metrics, options.name);
    if (!shown) return shown.status();
    std::shared_ptr<driver::Cuda> cuda;
    std::shared_ptr<subscriber::ImageMemory> memory = std::make_shared<subscriber::HostMemory>();
    if (options.device >= 0) {
      auto loaded = driver::load_cuda();
      if (!loaded) return without_cuda(options, loaded.status());
      cuda = std::move(*loaded);
      auto opened = subscriber::DeviceMemory::open(cuda, options.device);
      if (!opened) return opened.status();
      memory = std::move(*opened);
    }
    auto impl = std::make_unique<Impl>(std::move(options), std::move(*trace), std::move(*shown),
                                       std::move(*place), std::move(*keys), std::move(applier),
                                       std::move(cuda), std::move(memory));
    if (Status status = impl->start(); !status) return status;
    return Subscriber(std::move(impl));
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot open the subscriber: ") + error.what());
  }
}

Result<Lease> Subscriber::acquire(Deadline deadline) {
  auto hold = impl_->serving().acquire(deadline);
  if (!hold) return hold.status();
  Lease lease;
  lease.image_ = std::move(hold->image);
  lease.ticket_ = std::move(hold->ticket);
  return lease;
}
Status Subscriber::wait_for(std::uint64_t number, Deadline deadline) {
  return impl_->serving().wait_for(number, deadline);
}
std::shared_ptr<void> Subscriber::after_apply(std::function<void(const Version&)> callback) {
  return impl_->serving().after_apply(std::move(callback));
}
SubscriberStatus Subscriber::status() const { return impl_->serving().status(); }
const SubscriberOptions& Subscriber::options() const noexcept { return impl_->options(); }

}  // namespace weightcast
