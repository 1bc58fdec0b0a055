#include "transport/nccl/nccl_gpu.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/log.hpp"

namespace weightcast::transport {
namespace {

constexpr auto kLook = std::chrono::milliseconds(1);

}  // namespace

NcclGpu::NcclGpu(std::shared_ptr<driver::Nccl> nccl, std::shared_ptr<driver::Cuda> cuda, int device,
                 const NcclOptions& options)
    : nccl_(std::move(nccl)),
      cuda_(std::move(cuda)),
      device_(device),
      options_(options),
      aborter_(nccl_) {}

Result<std::unique_ptr<NcclGpu>> NcclGpu::open(std::shared_ptr<driver::Nccl> nccl,
                                               std::shared_ptr<driver::Cuda> cuda, int device,
                                               const NcclOptions& options) {
  std::unique_ptr<NcclGpu> gpu(new NcclGpu(std::move(nccl), std::move(cuda), device, options));
  if (Status s = gpu->take(); !s) return s;
  return gpu;
}

Status NcclGpu::take() {
  // Urgent: its kernels hold up all other GPUs of a group.
  for (driver::Stream* stream : {&wire_, &copy_}) {
    auto made = cuda_->create_stream(device_, true);
    if (!made) return made.status();
    *stream = *made;
  }
  const auto event = [&](driver::Event& out) {
    auto made = cuda_->create_event(device_, false);
    if (made) out = *made;
    return made.status();
  };
  if (Status s = event(wire_end_); !s) return s;
  if (Status s = event(copy_end_); !s) return s;
  events_.resize(options_.buckets);
  for (Events& events : events_) {
    if (Status s = event(events.loaded); !s) return s;
    if (Status s = event(events.wired); !s) return s;
    if (Status s = event(events.placed); !s) return s;
  }
  auto ring =
      BucketRing::make(nccl_, cuda_, device_, options_.bucket_bytes, options_.buckets,
                       options_.registers);
  if (!ring) return ring.status();
  ring_ = std::move(*ring);
  return Status::ok();
}

NcclGpu::~NcclGpu() {
  const auto deadline = Clock::now() + options_.abort;
  std::vector<std::string> groups;
  for (const auto& [group, communicator] : communicators_) groups.push_back(group);
  if (!groups.empty()) fail(groups, {Code::kCancelled, "this end was closed"}, Clock::now());
  while (!status_ && !is_lost_ && Clock::now() < deadline) {
    poll(Clock::now());
    if (!status_ && !is_lost_) std::this_thread::sleep_for(kLook);
  }
  communicators_.clear();
  // Of those that rested, too: they may have the buffers registered.
  if (!aborter_.wait(deadline) && status_) {
    status_ = {Code::kUnavailable, "an abort of NCCL did not end in time"};
  }
  if (!status_) {
    base::log(LogLevel::kError, "nccl_memory_left",
              {{"device", device_}, {"why", status_.message()}});
    if (ring_) ring_->leak();
    return;
  }
  ring_.reset();
  for (const Events& events : events_) {
    for (driver::Event event : {events.loaded, events.wired, events.placed}) {
      if (event != nullptr) cuda_->destroy_event(device_, event);
    }
  }
  for (driver::Event event : {wire_end_, copy_end_}) {
    if (event != nullptr) cuda_->destroy_event(device_, event);
  }
  for (driver::Stream stream : {wire_, copy_}) {
    if (stream != nullptr) cuda_->destroy_stream(device_, stream);
  }
}

Status NcclGpu::join(const std::string& group, const CommPlace& place, Clock::time_point now) {
  if (const Communicator* const old = find(group); old != nullptr) {
    if (old->generation() >= place.generation) {
      return {Code::kStale, "expected a communicator of group " + group +
                                " newer than generation " + std::to_string(old->generation()) +
                                ", got " + std::to_string(place.generation)};
    }
    fail({group}, {Code::kCancelled, "a newer communicator of the group takes its place"}, now);
  }
  if (communicators_.size() >= options_.max_communicators) {
    return {Code::kExhausted, "this GPU is in " + std::to_string(communicators_.size()) +
                                  " communicators, as many as it may: leave one first"};
  }
  auto joined = Communicator::join(nccl_, aborter_, *ring_, device_, place, options_, now);
  if (!joined) return joined.status();
  communicators_[group] = std::move(*joined);
  return Status::ok();
}

Communicator* NcclGpu::find(const std::string& group) noexcept {
  const auto it = communicators_.find(group);
  return it == communicators_.end() ? nullptr : it->second.get();
}

void NcclGpu::leave(const std::string& group, Clock::time_point now) {
  if (Communicator* const communicator = find(group); communicator != nullptr) {
    communicator->leave(now);
  }
}

void NcclGpu::fail(const std::vector<std::string>& groups, const Status& why,
                   Clock::time_point now) {
  bool all_rested = !groups.empty();
  for (const std::string& group : groups) {
    const auto it = communicators_.find(group);
    if (it == communicators_.end()) {
      all_rested = false;  // what of it is under way is not known any more
      continue;
    }
    it->second->abort(why);
    if (!it->second->is_resting()) {
      all_rested = false;
      ++aborts_;
      if (it->second->ticket() != nullptr) tickets_.push_back(it->second->ticket());
    }
    communicators_.erase(it);
  }
  if (is_lost_ || all_rested) return;
  if (status_) quarantined_at_ = now;
  ends_recorded_ = false;
  status_ = {Code::kUnavailable, "NCCL's buffers are in quarantine after: " + why.message()};
}

void NcclGpu::drop(const std::string& group, const Status& why, Clock::time_point now) {
  if (find(group) != nullptr) fail({group}, why, now);
}

void NcclGpu::poll(Clock::time_point now) {
  std::vector<std::string> failed;
  for (auto it = communicators_.begin(); it != communicators_.end();) {
    const Communicator::State state = it->second->poll(now);
    if (state == Communicator::State::kFailed) failed.push_back(it->first);
    it = state == Communicator::State::kLeft ? communicators_.erase(it) : std::next(it);
  }
  for (const std::string& group : failed) {
    const Status why = communicators_.at(group)->status();
    if (communicators_.at(group)->is_resting()) {
      base::log(LogLevel::kInfo, "nccl_communicator_ended",
                {{"group", group}, {"why", why.message()}});
    } else {
      base::log(LogLevel::kWarn, "nccl_communicator_failed",
                {{"group", group}, {"why", why.message()}});
    }
    fail({group}, why, now);
  }
  if (!status_ && !is_lost_) poll_quarantine(now);
}

void NcclGpu::poll_quarantine(Clock::time_point now) {
  std::erase_if(tickets_, [](const AbortTicket& ticket) { return ticket->load(); });
  if (tickets_.empty()) {
    const auto empty = drained();
    if (empty && *empty) {
      status_ = Status::ok();
      return;
    }
    if (!empty) {
      is_lost_ = true;
      status_ = {Code::kUnavailable, "device " + std::to_string(device_) +
                                         " fails after an abort of NCCL: " +
                                         empty.status().message()};
      return;
    }
  }
  if (now - quarantined_at_ > options_.abort) {
    is_lost_ = true;
    status_ = {Code::kUnavailable, "an abort of NCCL did not end in time on device " +
                                       std::to_string(device_) +
                                       ": NCCL is not used any more by this process"};
  }
}

/// Whether nothing of what was queued before the abort is left on the streams.
Result<bool> NcclGpu::drained() {
  if (!ends_recorded_) {
    if (Status s = cuda_->record(device_, wire_end_, wire_); !s) return s;
    if (Status s = cuda_->record(device_, copy_end_, copy_); !s) return s;
    ends_recorded_ = true;
  }
  for (driver::Event event : {wire_end_, copy_end_}) {
    auto done = cuda_->done(device_, event);
    if (!done || !*done) return done;
  }
  return true;
}

std::size_t NcclGpu::resting() const noexcept {
  return static_cast<std::size_t>(
      std::count_if(communicators_.begin(), communicators_.end(),
                    [](const auto& it) { return it.second->is_resting(); }));
}

Status NcclGpu::settle(Deadline deadline) {
  const std::uint64_t aborts = aborts_;
  const auto is_settled = [&] { return communicators_.size() == resting(); };
  while (!is_settled() && Clock::now() < deadline) {
    poll(Clock::now());
    if (!is_settled()) std::this_thread::sleep_for(kLook);
  }
  if (is_settled() && aborts == aborts_) return Status::ok();
  return {Code::kDeadline, "some communicators did not end in peace and were aborted"};
}

Status NcclGpu::close(Deadline deadline) {
  const auto now = Clock::now();
  std::vector<std::string> resting;
  for (const auto& [group, communicator] : communicators_) {
    if (communicator->is_resting()) {
      resting.push_back(group);
    } else {
      communicator->leave(now);
    }
  }
  if (!resting.empty()) fail(resting, {Code::kCancelled, "this end was closed"}, now);
  return settle(deadline);
}

}  // namespace weightcast::transport
