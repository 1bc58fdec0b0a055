#include "subscriber/bounce.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "codec/digest.hpp"

namespace weightcast::subscriber {
namespace {

constexpr auto kBounceLook = std::chrono::microseconds(50);
constexpr std::uint64_t kWord = 8;
/// What is compared goes in so small pieces that one meets no more than kRuns borders of entries,
/// which lie 64 bytes apart.
constexpr std::size_t kComparedBytes = Bounce::kRuns / 2 * 64;

}  // namespace

Result<std::unique_ptr<Bounce>> Bounce::make(std::shared_ptr<driver::Cuda> cuda, int device,
                                             driver::Stream stream) {
  std::unique_ptr<Bounce> bounce(new Bounce(std::move(cuda), device, stream));
  bounce->chunks_.resize(kChunks);
  for (Chunk& chunk : bounce->chunks_) {
    auto memory = bounce->cuda_->allocate_host(kChunkBytes);
    if (!memory) return memory.status();
    chunk.memory = static_cast<std::byte*>(*memory);
    auto event = bounce->cuda_->create_event(device, false);
    if (!event) return event.status();
    chunk.event = *event;
    auto job = bounce->cuda_->make_digests(device, kRuns, 1);
    if (!job) return job.status();
    chunk.job = std::move(*job);
    chunk.items.reserve(kRuns);
    chunk.parts.reserve(kRuns);
  }
  return bounce;
}

Bounce::~Bounce() {
  for (Chunk& chunk : chunks_) {
    chunk.job.reset();
    if (chunk.event != nullptr) cuda_->destroy_event(device_, chunk.event);
    if (chunk.memory != nullptr) cuda_->free_host(chunk.memory);
  }
}

void Bounce::begin(const Fetch& fetch, const PlacedRanges& ranges) {
  const std::lock_guard lock(mutex_);
  fetch_ = &fetch;
  ranges_ = &ranges;
  status_ = Status::ok();
  failed_ = false;
}

void Bounce::fail(Status status) {
  if (status_) status_ = std::move(status);
  failed_ = true;
}

void Bounce::collect() {
  for (Chunk& chunk : chunks_) {
    if (!chunk.under_way) continue;
    const auto done = cuda_->done(device_, chunk.event);
    if (!done) return fail(done.status());
    if (!*done) continue;
    chunk.under_way = false;
    chunk.taken = false;
    fetch_->placed.fetch_add(chunk.placed, std::memory_order_relaxed);
    if (chunk.is_compared && chunk.job->sums()[0] != chunk.came) {
      fail(Status(Code::kMismatch, ranges_->describe(chunk.target) +
                                       ": the bytes placed on the device are not those that came; "
                                       "the version is not served"));
    }
  }
}

Bounce::Chunk* Bounce::take() {
  while (!failed_) {
    {
      const std::lock_guard lock(mutex_);
      collect();
      for (Chunk& chunk : chunks_) {
        if (chunk.taken) continue;
        chunk.taken = true;
        chunk.is_compared = false;
        chunk.used = chunk.placed = chunk.target = chunk.words = 0;
        chunk.came = base::Digest{};
        chunk.items.clear();
        chunk.parts.clear();
        return &chunk;
      }
    }
    std::this_thread::sleep_for(kBounceLook);
  }
  return nullptr;
}

std::size_t Bounce::room_in(const Chunk& chunk) const noexcept {
  const auto left = static_cast<std::size_t>(kChunkBytes - chunk.used);
  return ranges_->are_all() ? left : std::min(left, kComparedBytes);
}

void Bounce::add(Chunk& chunk, std::uint64_t target, std::span<const std::byte> source) {
  std::memcpy(chunk.memory + chunk.used, source.data(), source.size());
  chunk.items.push_back({fetch_->image.data() + target, chunk.memory + chunk.used, source.size()});
  ranges_->each_other(target, source.size(), [&](std::uint64_t at, std::uint64_t bytes) {
    if (!chunk.is_compared) chunk.target = at;
    chunk.is_compared = true;
    chunk.came += codec::digest(source.data() + (at - target), bytes, chunk.words);
    chunk.parts.push_back({fetch_->image.data() + at, bytes, chunk.words, 0});
    chunk.words += (bytes + kWord - 1) / kWord;
    return true;
  });
  // More than there is room for, the job refuses, and with it the version.
  chunk.placed += source.size();
  chunk.used = (chunk.used + source.size() + kWord - 1) / kWord * kWord;
}

void Bounce::send(Chunk& chunk) {
  Status status = cuda_->copy(device_, chunk.items, stream_);
  if (status && chunk.is_compared) status = chunk.job->start(chunk.parts, stream_);
  if (status) status = cuda_->record(device_, chunk.event, stream_);
  const std::lock_guard lock(mutex_);
  chunk.under_way = status.is_ok();
  if (!status) fail(std::move(status));
}

void Bounce::place(const plan::PlannedBucket& bucket, std::uint64_t at,
                   std::span<const std::byte> source) {
  Chunk* chunk = nullptr;
  each_run(bucket, at, source.size(),
           [&](std::uint64_t, std::uint64_t target, std::uint64_t bytes) {
             while (bytes > 0) {
               if (chunk == nullptr && (chunk = take()) == nullptr) return false;
               const auto part = source.first(std::min<std::uint64_t>(bytes, room_in(*chunk)));
               add(*chunk, target, part);
               target += part.size();
               bytes -= part.size();
               source = source.subspan(part.size());
               if (chunk->used >= kChunkBytes || chunk->items.size() >= kRuns ||
                   chunk->parts.size() >= kRuns / 2) {
                 send(*chunk);
                 chunk = nullptr;
               }
             }
             return true;
           });
  if (chunk != nullptr) send(*chunk);
}

Status Bounce::finish() {
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (!failed_) collect();
      if (failed_) {
        static_cast<void>(cuda_->synchronize(device_));  // also what no event tells of
        for (Chunk& chunk : chunks_) chunk.taken = chunk.under_way = false;
      }
      if (std::none_of(chunks_.begin(), chunks_.end(),
                       [](const Chunk& chunk) { return chunk.taken; })) {
        return status_;
      }
    }
    std::this_thread::sleep_for(kBounceLook);
  }
}

}  // namespace weightcast::subscriber
