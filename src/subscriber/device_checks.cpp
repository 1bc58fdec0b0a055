#include "subscriber/device_checks.hpp"

#include <utility>

#include "subscriber/device_copies.hpp"

namespace weightcast::subscriber {

Result<std::unique_ptr<DeviceChecks>> DeviceChecks::make(std::shared_ptr<driver::Cuda> cuda,
                                                         int device) {
  std::unique_ptr<DeviceChecks> checks(new DeviceChecks(std::move(cuda), device));
  auto stream = checks->cuda_->create_stream(device, false);
  if (!stream) return stream.status();
  checks->stream_ = *stream;
  auto event = checks->cuda_->create_event(device, false);
  if (!event) return event.status();
  checks->event_ = *event;
  auto job = checks->cuda_->make_digests(device, kParts, kParts);
  if (!job) return job.status();
  checks->job_ = std::move(*job);
  checks->parts_.reserve(kParts);
  checks->checks_.reserve(kParts);
  return checks;
}

DeviceChecks::~DeviceChecks() {
  job_.reset();
  if (event_ != nullptr) cuda_->destroy_event(device_, event_);
  if (stream_ != nullptr) cuda_->destroy_stream(device_, stream_);
}

void DeviceChecks::begin(const PlacedRanges& ranges, const std::byte* image) {
  ranges_ = &ranges;
  image_ = image;
  parts_.clear();
  checks_.clear();
}

Status DeviceChecks::make_room(std::size_t sums) {
  return parts_.size() + sums <= kParts ? Status::ok() : finish();
}

std::uint32_t DeviceChecks::add(const std::byte* data, std::uint64_t bytes) {
  const auto sum = static_cast<std::uint32_t>(parts_.size());
  parts_.push_back({data, bytes, 0, sum});
  return sum;
}

Status DeviceChecks::entry(const PlacedRanges::Whole& whole) {
  if (Status status = make_room(1); !status) return status;
  checks_.push_back({whole.target, &whole, add(image_ + whole.target, whole.bytes)});
  return Status::ok();
}

Status DeviceChecks::same(std::uint64_t target, std::uint64_t bytes, const std::byte* source) {
  if (Status status = make_room(2); !status) return status;
  checks_.push_back({target, nullptr, add(image_ + target, bytes)});
  add(source, bytes);
  return Status::ok();
}

Status DeviceChecks::finish() {
  if (checks_.empty()) return Status::ok();
  Status status = job_->start(parts_, stream_);
  if (status) status = cuda_->record(device_, event_, stream_);
  if (status) status = wait_for_event(*cuda_, device_, event_);
  if (!status) static_cast<void>(cuda_->synchronize(device_));  // what did begin is over
  for (std::size_t i = 0; status && i < checks_.size(); ++i) status = judge(checks_[i]);
  parts_.clear();
  checks_.clear();
  return status;
}

Status DeviceChecks::judge(const Check& check) const {
  const auto sums = job_->sums();
  if (check.whole != nullptr) {
    if (sums[check.sum] == check.whole->entry->digest) return Status::ok();
    return Status(Code::kMismatch,
                  "tensor '" + check.whole->entry->info.name +
                      "': the bytes placed on the device do not have the digest that the trainer "
                      "(rank " +
                      std::to_string(check.whole->rank) + ") gave; the version is not served");
  }
  if (sums[check.sum] == sums[check.sum + 1]) return Status::ok();
  return Status(Code::kMismatch, ranges_->describe(check.target) +
                                     ": the bytes placed on the device are not those that came; "
                                     "the version is not served");
}

}  // namespace weightcast::subscriber
