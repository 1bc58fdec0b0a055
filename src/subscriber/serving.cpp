#include "subscriber/serving.hpp"

#include <algorithm>
#include <utility>

#include "base/log.hpp"
#include "base/trace.hpp"

namespace weightcast::subscriber {

Serving::Serving(const SubscriberOptions& options, std::string place,
                 std::shared_ptr<LeaseBook> leases)
    : options_(options),
      place_(std::move(place)),
      leases_(std::move(leases)),
      store_(std::make_shared<ImageStore>(leases_)) {}

// ---- what the stager does -------------------------------------------------------------------

void Serving::serve(std::shared_ptr<Image> image) {
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
      base::log(LogLevel::kWarn, "after_apply_threw", {{"what", "callbacks must not throw"}});
    }
  }
  resume(std::move(image));
}

void Serving::begin_pause() {
  if (base::tracing() && !paused_since_) paused_since_ = Clock::now();
}

void Serving::end_pause(const Image* next) {
  if (const auto since = std::exchange(paused_since_, std::nullopt)) {
    base::trace_span("pause", next ? "leases paused" : "leases paused, in vain", *since,
                     Clock::now(), {.version = next ? next->version().number : 0});
  }
}

void Serving::pause(std::string why) {
  const std::lock_guard lock(mutex_);
  paused_ = std::move(why);
  begin_pause();
  store_->serve({});
}

void Serving::resume(std::shared_ptr<Image> image) {
  std::shared_ptr<Image> former;  // let go without the lock
  {
    const std::lock_guard lock(mutex_);
    paused_.clear();
    end_pause(image.get());
    if (image) {
      status_.serving = image->version();
      withdrawn_.clear();
      former = std::exchange(current_, std::move(image));
    }
    store_->serve(current_);
  }
  changed_.notify_all();
}

std::shared_ptr<Image> Serving::withdraw(std::string why) {
  const std::lock_guard lock(mutex_);
  paused_.clear();
  begin_pause();
  withdrawn_ = std::move(why);
  store_->serve({});
  return std::exchange(current_, nullptr);
}

// ---- what the I/O thread does ---------------------------------------------------------------

void Serving::update(const std::function<void(SubscriberStatus&)>& change) {
  {
    const std::lock_guard lock(mutex_);
    change(status_);
  }
  changed_.notify_all();
}

void Serving::set_refused(std::optional<protocol::Refused> refused) {
  const std::lock_guard lock(mutex_);
  refused_ = std::move(refused);
}

void Serving::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
}

// ---- what the user does ---------------------------------------------------------------------

Status Serving::may_serve() const {
  if (!current_) return Status(Code::kDeadline, what_is_missing());
  if (!paused_.empty()) return Status(Code::kDeadline, paused_);
  if (!options_.serve_detached && !status_.attached) {
    return Status(Code::kStale, "the trainer is not heard and serve_detached is off");
  }
  if (options_.max_staleness != 0 && versions_behind() > options_.max_staleness) {
    return Status(Code::kStale, "version " + std::to_string(status_.serving.number) +
                                    " is served, " + std::to_string(status_.published.number) +
                                    " is published: further apart than max_staleness = " +
                                    std::to_string(options_.max_staleness));
  }
  return Status::ok();
}

std::uint64_t Serving::versions_behind() const {
  const Version& serving = status_.serving;
  const Version& published = status_.published;
  if (published <= serving) return 0;
  return published.run != serving.run ? published.number : published.number - serving.number;
}

std::string Serving::what_is_missing() const {
  if (!withdrawn_.empty()) return "nothing is served: " + withdrawn_;
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

Result<Serving::Hold> Serving::acquire(Deadline deadline) {
  std::unique_lock lock(mutex_);
  Status status;
  changed_.wait_until(lock, deadline, [&] {
    status = may_serve();
    return status.is_ok() || stopped_;
  });
  if (!status) {
    counts_.refused.add(status.code());
    return status;
  }
  counts_.staleness.observe(static_cast<std::int64_t>(versions_behind()));
  return Hold{current_, leases_->open(current_->version(), Clock::now())};
}

Status Serving::wait_for(std::uint64_t number, Deadline deadline) {
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

std::shared_ptr<void> Serving::after_apply(AfterApply callback) {
  auto token = std::make_shared<AfterApply>(std::move(callback));
  const std::lock_guard lock(mutex_);
  callbacks_.push_back(token);
  return token;
}

SubscriberStatus Serving::status() const {
  const std::lock_guard lock(mutex_);
  SubscriberStatus status = status_;
  status.leases = leases_->count();
  return status;
}

}  // namespace weightcast::subscriber
