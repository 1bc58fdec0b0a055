#include "publisher/device_lane.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "codec/convert.hpp"
#include "codec/digest.hpp"

namespace weightcast::publisher {
namespace {

/// Whether it counts in its chunk's own digest job: it was gathered, or is copied by that.
bool has_sum(const DeviceChunk& chunk, const DevicePart& part) {
  return part.way == Way::kGather || (part.way == Way::kDirect && chunk.directs != 0);
}

}  // namespace

// ---- the queues --------------------------------------------------------------------------------

void DeviceLane::copy_hosts(const CaptureRequest& request) {
  std::fill(host_sums_.begin(), host_sums_.end(), base::Digest{});
  for (const DevicePart& part : plan_.hosts) {
    const bool is_ours = part.sum + 1 != plan_.sums;
    if (!is_ours && !request.whole_policy_digest) continue;
    const TensorView& view = request.list.tensors[part.tensor];
    std::byte* const scratch = hosts_ + plan_.scratch_at[part.tensor];
    const DType to = request.published[part.tensor].dtype;
    // Cannot fail: check_request saw the types.
    static_cast<void>(codec::gather(scratch, to, view, 0, std::uint64_t(view.info.elements())));
    host_sums_[part.sum] += codec::digest(scratch, part.end, 0);
    if (is_ours && !payload_on_device_) {
      std::memcpy(request.payload.data() + part.at, scratch, part.end);
    }
  }
}

void DeviceLane::add_gathers(const CaptureRequest& request, const DevicePart& part,
                             std::byte* to) {
  const TensorView& view = request.list.tensors[part.tensor];
  const auto size = std::int64_t(dtype_size(view.info.dtype));
  for (std::uint32_t i = part.first_box; i < part.first_box + part.boxes; ++i) {
    const GatherBox& box = plan_.boxes[i];
    driver::GatherItem item;
    item.to = to + box.to;
    item.to_type = request.published[part.tensor].dtype;
    item.from = static_cast<const std::byte*>(view.data) + box.from * size;
    item.from_type = view.info.dtype;
    item.elements = box.elements;
    item.shape = std::span(plan_.sizes).subspan(box.first_dim, box.dims);
    item.strides = std::span(plan_.strides).subspan(box.first_dim, box.dims);
    gathers_.push_back(item);
  }
}

const std::byte* DeviceLane::source_of(const CaptureRequest& request,
                                       const DevicePart& part) const {
  if (part.way == Way::kSnapshot) return snapshots_ + plan_.scratch_at[part.tensor] + part.begin;
  if (part.way == Way::kHost) return hosts_ + plan_.scratch_at[part.tensor] + part.begin;
  return static_cast<const std::byte*>(request.list.tensors[part.tensor].data) + part.begin;
}

Status DeviceLane::snapshot(const CaptureRequest& request) {
  copy_hosts(request);
  copies_.clear();
  gathers_.clear();
  for (const DevicePart& part : plan_.snapshots) {
    std::byte* const to = snapshots_ + plan_.scratch_at[part.tensor];
    if (part.boxes != 0) {
      add_gathers(request, part, to);
    } else {
      copies_.push_back({to, request.list.tensors[part.tensor].data, part.end});
    }
  }
  const driver::Stream trainer = request.list.stream;
  Status status;
  if (!copies_.empty()) status = cuda_->copy(device_, copies_, trainer);
  if (status && !gathers_.empty()) status = cuda_->gather(device_, gathers_, trainer);
  // The mark is set in any case: it says when the scratch is not written to any more.
  const Status marked = cuda_->record(device_, start_, trainer);
  trainer_ = trainer;
  is_marked_ = marked.is_ok();
  return status ? marked : status;
}

Status DeviceLane::begin(const CaptureRequest& request) {
  scratch_user_ = {};
  next_scratch_ = 0;
  if (Status s = cuda_->wait(device_, prepare_, start_); !s) return s;
  if (Status s = cuda_->wait(device_, copy_, start_); !s) return s;
  const std::size_t count =
      request.whole_policy_digest ? plan_.wholes.size() : plan_.own_wholes;
  digests_.clear();
  for (const DevicePart& part : std::span(plan_.wholes).first(count)) {
    digests_.push_back({source_of(request, part), part.end, 0, part.sum});
  }
  return whole_job_->start(digests_, prepare_);
}

/// Gathers to `base`; where the chunk is ours, what is queued to be copied comes after it.
Status DeviceLane::gather_chunk(const CaptureRequest& request, const DeviceChunk& chunk,
                                std::uint32_t number, std::byte* base) {
  gathers_.clear();
  for (const DevicePart& part : parts_of(chunk)) {
    if (part.way == Way::kGather) add_gathers(request, part, base + part.at);
  }
  if (Status s = cuda_->gather(device_, gathers_, prepare_); !s || !chunk.is_ours) return s;
  const driver::Event ready = ready_[number % ready_.size()];
  if (Status s = cuda_->record(device_, ready, prepare_); !s) return s;
  return cuda_->wait(device_, copy_, ready);
}

/// Of what was gathered to `base`, and of what its digest copies to `place`: a sum each, in the
/// order of the parts.
Status DeviceLane::digest_chunk(const CaptureRequest& request, const DeviceChunk& chunk,
                                std::uint32_t number, const std::byte* base, std::byte* place) {
  digests_.clear();
  for (const DevicePart& part : parts_of(chunk)) {
    if (!has_sum(chunk, part)) continue;
    const bool is_gathered = part.way == Way::kGather;
    digests_.push_back({.data = is_gathered ? base + part.at : source_of(request, part),
                        .bytes = part.end - part.begin,
                        .first_word = part.begin / 8,
                        .sum = std::uint32_t(digests_.size()),
                        .to = is_gathered ? nullptr : place + part.at});
  }
  return chunk_jobs_[number]->start(digests_, chunk.directs != 0 ? copy_ : prepare_);
}

/// All that is not in its place yet, and that no digest copies.
Status DeviceLane::copy_chunk(const CaptureRequest& request, const DeviceChunk& chunk,
                              const std::byte* base, std::byte* place) {
  copies_.clear();
  for (const DevicePart& part : parts_of(chunk)) {
    const bool is_gathered = part.way == Way::kGather;
    if (is_gathered ? base == place : has_sum(chunk, part)) continue;
    const std::byte* from = is_gathered ? base + part.at : source_of(request, part);
    copies_.push_back({place + part.at, from, part.end - part.begin});
  }
  return copies_.empty() ? Status::ok() : cuda_->copy(device_, copies_, copy_);
}

Status DeviceLane::submit(const CaptureRequest& request, std::uint32_t number) {
  const DeviceChunk& chunk = plan_.chunks[number];
  std::byte* const place = chunk.is_ours ? request.payload.data() + chunk.offset : nullptr;
  const bool in_place = chunk.is_ours && payload_on_device_;
  std::byte* base = place;
  if (chunk.gathers != 0) {
    if (!in_place) {
      auto& user = scratch_user_[next_scratch_];
      if (user) {
        if (Status s = cuda_->wait(device_, prepare_, chunk_over_[*user]); !s) return s;
      }
      base = scratch_[next_scratch_];
      user = chunk.is_ours ? std::optional(number) : std::nullopt;
      next_scratch_ = (next_scratch_ + 1) % std::uint32_t(scratch_.size());
    }
    if (Status s = gather_chunk(request, chunk, number, base); !s) return s;
  }
  if (chunk_jobs_[number]) {
    if (Status s = digest_chunk(request, chunk, number, base, place); !s) return s;
  }
  if (!chunk.is_ours) return Status::ok();
  if (Status s = copy_chunk(request, chunk, base, place); !s) return s;
  return cuda_->record(device_, chunk_over_[number], copy_);
}

Status DeviceLane::end() {
  if (Status s = cuda_->record(device_, prepared_, prepare_); !s) return s;
  if (Status s = cuda_->wait(device_, copy_, prepared_); !s) return s;
  return cuda_->record(device_, over_, copy_);
}

Result<bool> DeviceLane::has_started() { return cuda_->done(device_, start_); }
Result<bool> DeviceLane::chunk_over(std::uint32_t chunk) {
  return cuda_->done(device_, chunk_over_[chunk]);
}
Result<bool> DeviceLane::is_over() { return cuda_->done(device_, over_); }

std::span<const base::Digest> DeviceLane::sums(bool whole_policy) {
  sums_ = host_sums_;
  for (std::size_t i = 0; i < sums_.size(); ++i) sums_[i] += whole_job_->sums()[i];
  for (std::uint32_t c = 0; c < chunks(whole_policy); ++c) {
    if (!chunk_jobs_[c]) continue;
    std::uint32_t number = 0;
    const DeviceChunk& chunk = plan_.chunks[c];
    for (const DevicePart& part : parts_of(chunk)) {
      if (!has_sum(chunk, part)) continue;
      sums_[part.sum] += chunk_jobs_[c]->sums()[number++];
    }
  }
  return sums_;
}

Result<bool> DeviceLane::drained() {
  if (!is_marked_) {
    if (Status s = cuda_->record(device_, start_, trainer_); !s) return s;
    is_marked_ = true;
  }
  const std::array<driver::Stream, 2> streams{prepare_, copy_};
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (is_draining_[i]) continue;
    if (Status s = cuda_->record(device_, drained_[i], streams[i]); !s) return s;
    is_draining_[i] = true;
  }
  for (const driver::Event event : {start_, drained_[0], drained_[1]}) {
    const auto over = cuda_->done(device_, event);
    if (!over || !*over) return over;
  }
  return true;
}

// ---- the fence and the clock -------------------------------------------------------------------

Status DeviceLane::mark_fence(driver::Stream trainer) {
  return cuda_->record(device_, fence_, trainer);
}
Result<bool> DeviceLane::fence_passed() { return cuda_->done(device_, fence_); }
Status DeviceLane::let_trainer_wait(driver::Stream trainer) {
  return cuda_->wait(device_, trainer, over_);
}

std::optional<std::chrono::nanoseconds> DeviceLane::elapsed(driver::Event from,
                                                            driver::Event to) {
  for (const driver::Event event : {from, to}) {
    const auto over = cuda_->done(device_, event);
    if (!over || !*over) return std::nullopt;
  }
  const auto time = cuda_->elapsed(device_, from, to);
  if (!time) return std::nullopt;
  return *time;
}

std::optional<std::chrono::nanoseconds> DeviceLane::from_start_to_end() {
  return elapsed(start_, over_);
}
std::optional<std::chrono::nanoseconds> DeviceLane::from_start_to_fence() {
  return elapsed(start_, fence_);
}
std::optional<std::chrono::nanoseconds> DeviceLane::from_fence_to_end() {
  return elapsed(fence_, over_);
}

}  // namespace weightcast::publisher
