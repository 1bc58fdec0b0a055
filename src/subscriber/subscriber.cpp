#include <weightcast/subscriber.hpp>

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "base/config.hpp"
#include "base/failpoint.hpp"
#include "base/log.hpp"
#include "base/signal_mask.hpp"
#include "protocol/receiver.hpp"
#include "stream/coordinator_link.hpp"
#include "stream/job_keys.hpp"
#include "stream/rendezvous.hpp"
#include "stream/wait.hpp"
#include "stream/waker.hpp"
#include "subscriber/leases.hpp"
#include "subscriber/options.hpp"
#include "subscriber/stager.hpp"
#include "transport/shm/shm_transport.hpp"

namespace weightcast {
namespace {

constexpr auto kFarewell = std::chrono::milliseconds(100);  ///< for the Bye to go out
constexpr int kMaxMessagesATurn = 256;

using subscriber::Image;
using subscriber::StageEvent;
using AfterApply = std::function<void(const Version&)>;

protocol::ReceiverConfig receiver_config(const SubscriberOptions& options) {
  protocol::ReceiverConfig config;
  config.name = options.name;
  config.policy = options.policy;
  config.heartbeat = options.heartbeat;
  config.member_timeout = options.member_timeout;
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  config.incarnation = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(since_epoch).count());
  return config;
}

}  // namespace

class Subscriber::Impl {
 public:
  Impl(SubscriberOptions options, std::string place, stream::Keys keys,
       std::shared_ptr<Applier> applier);
  ~Impl();

  void start();
  Result<Lease> acquire(Deadline deadline);
  Status wait_for(std::uint64_t number, Deadline deadline);
  std::shared_ptr<void> after_apply(AfterApply callback);
  SubscriberStatus status() const;
  const SubscriberOptions& options() const noexcept { return options_; }

 private:
  void run();
  void turn();
  void pump();
  void take_events();
  void flush_machine();
  void seek();
  void publish_state();
  void serve(std::shared_ptr<Image> image);
  Status may_serve() const;
  std::string what_is_missing() const;

  const SubscriberOptions options_;
  const std::string place_;
  const std::shared_ptr<subscriber::ImageRoom> room_ =
      std::make_shared<subscriber::ImageRoom>(options_.job);
  const std::shared_ptr<subscriber::LeaseBook> leases_ =
      std::make_shared<subscriber::LeaseBook>(room_);
  stream::Waker waker_;
  std::atomic<bool> stop_{false};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<Image> current_;
  SubscriberStatus status_;
  std::optional<protocol::Refused> refused_;
  std::vector<StageEvent> events_;
  std::vector<std::weak_ptr<AfterApply>> callbacks_;

  // The I/O thread's own.
  protocol::Receiver receiver_;
  stream::CoordinatorLink link_;
  std::unique_ptr<subscriber::Stager> stager_;
  std::thread thread_;
};

Subscriber::Impl::Impl(SubscriberOptions options, std::string place, stream::Keys keys,
                       std::shared_ptr<Applier> applier)
    : options_(std::move(options)),
      place_(std::move(place)),
      receiver_(receiver_config(options_), Clock::now()),
      link_({place_, options_.coordinator, std::move(keys)}) {
  const bool flip = options_.activation == Activation::kFlip;
  status_.activation = flip ? Activation::kFlip : Activation::kView;
  status_.activation_reason =
      options_.activation == Activation::kAuto
          ? "auto: the trainer is on this host, so its sealed slots can be served in place"
          : "chosen by the configuration";
  subscriber::StagerOptions stager_options;
  stager_options.job = options_.job;
  stager_options.activation = status_.activation;
  stager_options.copy_threads = options_.copy_threads;
  stager_options.verify_view = options_.verify_view;
  subscriber::Stager::Callbacks callbacks;
  callbacks.ended = [this](StageEvent event) {
    {
      const std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    }
    waker_.wake();
  };
  callbacks.serve = [this](std::shared_ptr<Image> image) { serve(std::move(image)); };
  stager_ = std::make_unique<subscriber::Stager>(stager_options, std::move(applier), room_,
                                                 std::make_shared<transport::ShmTransport>(),
                                                 std::move(callbacks));
}

void Subscriber::Impl::start() {
  stager_->start();
  const base::ScopedSignalMask mask;
  thread_ = std::thread([this] { run(); });
}

Subscriber::Impl::~Impl() {
  stop_ = true;
  waker_.wake();
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  stager_.reset();
}

void Subscriber::Impl::run() {
  pthread_setname_np(pthread_self(), "wc-receiver");
  while (!stop_) {
    try {
      turn();
    } catch (const std::exception& error) {
      base::log(LogLevel::kError, std::string("event=receiver_loop_failed why=\"") + error.what() + "\"");
      return;
    }
  }
  receiver_.leave(Clock::now());
  flush_machine();
  link_.close(kFarewell);
}

void Subscriber::Impl::turn() {
  const auto before = Clock::now();
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(receiver_.next_wakeup() - before);
  stream::wait_for_work(
      waker_, {link_.handle()},
      std::clamp(wait, std::chrono::milliseconds(0), std::chrono::milliseconds(1000)));
  // What came while this process did not run is heard before the clock is looked at.
  pump();
  take_events();
  const auto now = Clock::now();
  const auto oldest = leases_->oldest_but(receiver_.serving());
  receiver_.set_lagging(now, oldest && now - *oldest > options_.lease_deadline);
  receiver_.tick(now);
  flush_machine();
  publish_state();
  seek();
}

void Subscriber::Impl::pump() {
  for (int i = 0; i < kMaxMessagesATurn; ++i) {
    const auto message = link_.receive();
    if (!message) return;
    receiver_.receive(Clock::now(), *message);
  }
}

void Subscriber::Impl::take_events() {
  std::vector<StageEvent> events;
  {
    const std::lock_guard lock(mutex_);
    events.swap(events_);
    for (const StageEvent& event : events) {
      if (event.switched) {
        ++status_.applied;
        status_.last_failure.clear();
      } else if (event.status) {
        status_.last_stage = event.took;
      } else if (event.status.code() != Code::kCancelled) {
        ++status_.failed;
        status_.last_failure = event.status.to_string();
      }
    }
  }
  for (const StageEvent& event : events) {
    if (event.switched) {
      receiver_.switched(Clock::now(), event.op);
    } else {
      receiver_.stage_done(Clock::now(), event.op, event.status);
    }
  }
}

void Subscriber::Impl::flush_machine() {
  for (auto& action : receiver_.take_actions()) stager_->perform(std::move(action));
  for (const auto& message : receiver_.take_outbox()) {
    link_.send(message);
    const auto* state = std::get_if<protocol::ReceiverState>(&message.body);
    if (state != nullptr && state->phase == protocol::Phase::kStaged) {
      base::failpoint("engine.staged", 0);
    }
  }
}

void Subscriber::Impl::publish_state() {
  {
    const std::lock_guard lock(mutex_);
    status_.run = receiver_.run();
    status_.published = receiver_.published();
    status_.attached = receiver_.attached();
    status_.rejoined = receiver_.rejoined();
    status_.lagging = receiver_.lagging();
    refused_ = receiver_.refused();
  }
  changed_.notify_all();
}

void Subscriber::Impl::seek() {
  if (receiver_.attached()) return;
  link_.seek(Clock::now(), [this] { return receiver_.take_reconnect(); });
}

void Subscriber::Impl::serve(std::shared_ptr<Image> image) {
  std::vector<std::shared_ptr<AfterApply>> callbacks;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(callbacks_, [](const auto& callback) { return callback.expired(); });
    for (const auto& callback : callbacks_) callbacks.push_back(callback.lock());
  }
  for (const auto& callback : callbacks) {
    try {
      if (callback) (*callback)(image->version());
    } catch (...) {
      base::log(LogLevel::kWarn, "event=after_apply_threw what=\"callbacks must not throw\"");
    }
  }
  std::shared_ptr<Image> former;  // let go without the lock
  {
    const std::lock_guard lock(mutex_);
    status_.serving = image->version();
    former = std::exchange(current_, std::move(image));
  }
  changed_.notify_all();
}

Status Subscriber::Impl::may_serve() const {
  if (!current_) return Status(Code::kDeadline, what_is_missing());
  if (!options_.serve_detached && !status_.attached) {
    return Status(Code::kStale, "the trainer is not heard and serve_detached is off");
  }
  const Version& serving = status_.serving;
  const Version& published = status_.published;
  const std::uint64_t ahead = published.run != serving.run
                                  ? published.number
                                  : published.number - std::min(serving.number, published.number);
  if (options_.max_staleness != 0 && published > serving && ahead > options_.max_staleness) {
    return Status(Code::kStale, "version " + std::to_string(serving.number) + " is served, " +
                                    std::to_string(published.number) +
                                    " is published: further apart than max_staleness = " +
                                    std::to_string(options_.max_staleness));
  }
  return Status::ok();
}

std::string Subscriber::Impl::what_is_missing() const {
  const std::string who = "policy " + options_.policy + " of job " + options_.job;
  if (!status_.last_failure.empty()) {
    return "no version of " + who + " could be taken in; the last one failed: " + status_.last_failure;
  }
  if (refused_) return "the trainer of " + who + " refuses this worker: " + refused_->message;
  if (!status_.attached) {
    return "no trainer of " + who + " is heard; is it running, with the same job, policy and " +
           (options_.coordinator.empty()
                ? "directory (" + place_ + ")?"
                : "keys, and does it listen at " + options_.coordinator + " (option `listen`)?");
  }
  return "the trainer of " + who + " has published no version yet";
}

Result<Lease> Subscriber::Impl::acquire(Deadline deadline) {
  std::unique_lock lock(mutex_);
  Status status;
  changed_.wait_until(lock, deadline, [&] {
    status = may_serve();
    return status.is_ok() || stop_;
  });
  if (!status) return status;
  Lease lease;
  lease.image_ = current_;
  lease.ticket_ = leases_->open(current_->version(), Clock::now());
  return lease;
}

Status Subscriber::Impl::wait_for(std::uint64_t number, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const bool there = changed_.wait_until(lock, deadline, [&] {
    return current_ && status_.serving.number >= number && status_.serving.run == status_.run;
  });
  if (there) return Status::ok();
  if (!current_) return Status(Code::kDeadline, what_is_missing());
  return Status(Code::kDeadline,
                "version " + std::to_string(number) + " did not come; version " +
                    std::to_string(status_.serving.number) + " is served" +
                    (status_.last_failure.empty() ? "" : "; last failure: " + status_.last_failure));
}

std::shared_ptr<void> Subscriber::Impl::after_apply(AfterApply callback) {
  auto token = std::make_shared<AfterApply>(std::move(callback));
  const std::lock_guard lock(mutex_);
  callbacks_.push_back(token);
  return token;
}

SubscriberStatus Subscriber::Impl::status() const {
  const std::lock_guard lock(mutex_);
  SubscriberStatus status = status_;
  status.leases = leases_->count();
  status.dropped_messages += link_.malformed();
  return status;
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
    auto place = stream::meeting_place(options.directory,
                                       base::environment("XDG_RUNTIME_DIR").value_or(""),
                                       options.job, options.policy);
    if (!place) return place.status();
    auto keys = stream::control_keys({*place, options.keys, {}, options.coordinator},
                                     keys::Role::kEngine);
    if (!keys) return keys.status();
    auto impl = std::make_unique<Impl>(std::move(options), std::move(*place), std::move(*keys),
                                       std::move(applier));
    impl->start();
    return Subscriber(std::move(impl));
  } catch (const std::exception& error) {
    return Status(Code::kExhausted, std::string("cannot open the subscriber: ") + error.what());
  }
}

Result<Lease> Subscriber::acquire(Deadline deadline) { return impl_->acquire(deadline); }
Status Subscriber::wait_for(std::uint64_t number, Deadline deadline) {
  return impl_->wait_for(number, deadline);
}
std::shared_ptr<void> Subscriber::after_apply(std::function<void(const Version&)> callback) {
  return impl_->after_apply(std::move(callback));
}
SubscriberStatus Subscriber::status() const { return impl_->status(); }
const SubscriberOptions& Subscriber::options() const noexcept { return impl_->options(); }

}  // namespace weightcast
