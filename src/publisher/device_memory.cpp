// What a DeviceLane takes and gives back: streams, events, scratch memory and digest jobs.
#include <algorithm>
#include <string>
#include <utility>

#include "publisher/device_lane.hpp"

namespace weightcast::publisher {

Result<std::unique_ptr<DeviceLane>> DeviceLane::create(std::shared_ptr<driver::Cuda> cuda,
                                                       int device, ChunkBytes chunk_bytes) {
  std::unique_ptr<DeviceLane> lane(new DeviceLane(std::move(cuda), device, chunk_bytes));
  if (Status s = lane->make_streams(); !s) return s;
  return lane;
}

Status DeviceLane::make_streams() {
  // Copies are urgent: the sooner they are over, the less a fence waits.
  for (const auto& [stream, urgent] : {std::pair{&prepare_, true}, std::pair{&copy_, true}}) {
    auto made = cuda_->create_stream(device_, urgent);
    if (!made) return made.status();
    *stream = *made;
  }
  for (const auto& [event, timed] :
       {std::pair{&start_, true}, std::pair{&fence_, true}, std::pair{&over_, true},
        std::pair{&prepared_, false}, std::pair{&ready_[0], false}, std::pair{&ready_[1], false},
        std::pair{&drained_[0], false}, std::pair{&drained_[1], false}}) {
    auto made = cuda_->create_event(device_, timed);
    if (!made) return made.status();
    *event = *made;
    events_.push_back(*made);
  }
  return Status::ok();
}

DeviceLane::~DeviceLane() {
  drop_memory();
  for (const driver::Event event : events_) cuda_->destroy_event(device_, event);
  for (const driver::Event event : chunk_over_) cuda_->destroy_event(device_, event);
  for (const driver::Stream stream : {prepare_, copy_}) {
    if (stream != nullptr) cuda_->destroy_stream(device_, stream);
  }
}

bool DeviceLane::fits(const CaptureRequest& request, bool payload_on_device) const {
  const auto& tensors = request.list.tensors;
  if (!is_planned_ || payload_on_device != payload_on_device_) return false;
  if (tensors.size() != kept_.size() || request.layout.items.size() != items_.size()) return false;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorView& view = tensors[i];
    const Kept& kept = kept_[i];
    const TensorInfo& now = request.published[i];
    const TensorInfo& then = published_[i];
    if (view.device != kept.device || view.info.dtype != kept.dtype ||
        view.info.buffer != kept.buffer || view.strides != kept.strides ||
        now.dtype != then.dtype || now.shape != then.shape || now.buffer != then.buffer ||
        now.is_box() != then.is_box()) {
      return false;
    }
  }
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (request.layout.items[i].tensor != items_[i]) return false;
  }
  return true;
}

Status DeviceLane::fit(const CaptureRequest& request, bool payload_on_device) {
  if (fits(request, payload_on_device)) return Status::ok();
  const auto device = device_of(request.list);
  if (!device) return device.status();
  if (*device != device_ && request.layout.payload_bytes != 0) {
    const std::string where =
        *device < 0 ? "host memory" : "device " + std::to_string(*device);
    return {Code::kInvalid, "the tensors have moved to " + where + ", expected device " +
                                std::to_string(device_) +
                                " as when the publisher was opened; open it again"};
  }
  drop_memory();
  payload_on_device_ = payload_on_device;
  plan_ = make_device_plan(request, payload_on_device, chunk_bytes_.moved, chunk_bytes_.digested);
  if (Status s = take_memory(); !s) {
    drop_memory();
    return s;
  }
  kept_.clear();
  items_.clear();
  for (const TensorView& view : request.list.tensors) {
    kept_.push_back({view.device, view.info.buffer, view.info.dtype, view.strides});
  }
  for (const auto& item : request.layout.items) items_.push_back(item.tensor);
  published_ = request.published;
  is_planned_ = true;
  return Status::ok();
}

Status DeviceLane::take_memory() {
  if (plan_.snapshot_bytes != 0) {
    auto memory = cuda_->allocate(device_, plan_.snapshot_bytes);
    if (!memory) return memory.status();
    snapshots_ = static_cast<std::byte*>(*memory);
  }
  if (plan_.host_bytes != 0) {
    auto memory = cuda_->allocate_host(plan_.host_bytes);
    if (!memory) return memory.status();
    hosts_ = static_cast<std::byte*>(*memory);
  }
  std::uint64_t scratch_bytes = 0;
  std::uint64_t most_parts = 0;
  std::uint32_t users = 0;
  chunk_jobs_.resize(plan_.chunks.size());
  for (std::size_t i = 0; i < plan_.chunks.size(); ++i) {
    const DeviceChunk& chunk = plan_.chunks[i];
    most_parts = std::max<std::uint64_t>(most_parts, chunk.parts);
    const std::uint32_t sums = chunk.gathers + chunk.directs;
    if (sums == 0) continue;
    auto job = cuda_->make_digests(device_, sums, sums);
    if (!job) return job.status();
    chunk_jobs_[i] = std::move(*job);
    if (chunk.gathers == 0 || (chunk.is_ours && payload_on_device_)) continue;
    scratch_bytes = std::max(scratch_bytes, chunk.bytes);
    ++users;
  }
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(users, 2); ++i) {
    auto memory = cuda_->allocate(device_, scratch_bytes);
    if (!memory) return memory.status();
    scratch_[i] = static_cast<std::byte*>(*memory);
  }
  auto job = cuda_->make_digests(device_, std::max<std::size_t>(plan_.wholes.size(), 1),
                                 plan_.sums);
  if (!job) return job.status();
  whole_job_ = std::move(*job);
  while (chunk_over_.size() < plan_.own_chunks) {
    auto made = cuda_->create_event(device_, false);
    if (!made) return made.status();
    chunk_over_.push_back(*made);
  }
  host_sums_.assign(plan_.sums, {});
  sums_.reserve(plan_.sums);
  copies_.reserve(std::max<std::uint64_t>(most_parts, plan_.snapshots.size()));
  gathers_.reserve(plan_.boxes.size());
  digests_.reserve(std::max(most_parts, std::uint64_t(plan_.wholes.size())));
  return Status::ok();
}

void DeviceLane::drop_memory() noexcept {
  is_planned_ = false;
  whole_job_.reset();
  chunk_jobs_.clear();
  for (std::byte*& memory : scratch_) {
    if (memory != nullptr) cuda_->free(device_, std::exchange(memory, nullptr));
  }
  if (snapshots_ != nullptr) cuda_->free(device_, std::exchange(snapshots_, nullptr));
  if (hosts_ != nullptr) cuda_->free_host(std::exchange(hosts_, nullptr));
}

}  // namespace weightcast::publisher
