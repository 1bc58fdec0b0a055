#include "transport/flight.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace weightcast::transport {

Result<std::unique_ptr<Flight>> Flight::make(const LaneOptions& options) {
  if (options.copy_threads < 1 || options.copy_threads > 64) {
    return Status(Code::kInvalid,
                  "copy_threads is " + std::to_string(options.copy_threads) + ": expected 1 to 64");
  }
  if (options.max_in_flight == 0) {
    return Status(Code::kInvalid, "max_in_flight is 0: expected 1 or more");
  }
  base::UniqueFd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event) {
    return Status(Code::kExhausted,
                  "cannot create an eventfd: " + std::generic_category().message(errno) +
                      "; raise the limit on open files (ulimit -n)");
  }
  return std::make_unique<Flight>(options.max_in_flight, std::move(event));
}

Flight::Flight(std::uint32_t max_in_flight, base::UniqueFd event)
    : max_in_flight_(max_in_flight), event_(std::move(event)) {}

Status Flight::begin() {
  const std::lock_guard guard(mutex_);
  if (closed_) {
    return Status(Code::kCancelled, "the lane was closed and takes no more buckets; open another");
  }
  const std::size_t in_flight = under_way_ + done_.size();
  if (in_flight >= max_in_flight_) {
    return Status(Code::kExhausted, std::to_string(in_flight) +
                                        " buckets are in flight, as many as max_in_flight allows: "
                                        "poll their completions first");
  }
  ++under_way_;
  return Status::ok();
}

void Flight::undo() {
  const std::lock_guard guard(mutex_);
  if (--under_way_ == 0) idle_.notify_all();
}

void Flight::end(Completion completion) {
  const std::lock_guard guard(mutex_);
  if (done_.empty()) {
    const std::uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }
  done_.push_back(std::move(completion));
  if (--under_way_ == 0) idle_.notify_all();
}

std::size_t Flight::poll(std::span<Completion> out) {
  const std::lock_guard guard(mutex_);
  std::size_t count = 0;
  while (count < out.size() && !done_.empty()) {
    out[count++] = std::move(done_.front());
    done_.pop_front();
  }
  if (count > 0 && done_.empty()) {
    std::uint64_t events = 0;
    (void)!::read(event_.get(), &events, sizeof events);
  }
  return count;
}

Status Flight::close(Deadline deadline) {
  std::unique_lock lock(mutex_);
  closed_ = true;
  if (!idle_.wait_until(lock, deadline, [&] { return under_way_ == 0; })) {
    return Status(Code::kDeadline, std::to_string(under_way_) +
                                       " buckets were still in flight at the deadline; wait longer "
                                       "or abort the lane");
  }
  return Status::ok();
}

void Flight::refuse() noexcept {
  const std::lock_guard guard(mutex_);
  closed_ = true;
}

}  // namespace weightcast::transport
