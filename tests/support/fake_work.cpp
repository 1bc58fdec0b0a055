// What a FakeCuda's streams do: copies, gathers and digests, a piece at a time.
#include <algorithm>
#include <cstring>
#include <utility>

#include "codec/convert.hpp"
#include "codec/digest.hpp"
#include "support/fake_cuda.hpp"

namespace weightcast::driver {
namespace {

// A device reads and writes behind the threads' backs, and tests let it race on purpose: not a
// memcpy, which TSan would see.
__attribute__((no_sanitize("thread"))) void copy_as_a_device(std::byte* to, const std::byte* from,
                                                             std::uint64_t bytes) noexcept {
  const auto together =
      reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  std::uint64_t at = 0;
  if (together % 8 == 0) {
    for (; at + 8 <= bytes; at += 8) {
      *reinterpret_cast<volatile std::uint64_t*>(to + at) =
          *reinterpret_cast<const volatile std::uint64_t*>(from + at);
    }
  }
  for (; at < bytes; ++at) {
    *reinterpret_cast<volatile unsigned char*>(to + at) =
        *reinterpret_cast<const volatile unsigned char*>(from + at);
  }
}

}  // namespace

Status FakeCuda::check_kernel(const void* address, std::uint64_t bytes, int device) {
  if (const auto what = memory_.wrong_with(address, bytes)) return wrong(*what);
  const fake::Range* const range = memory_.find(address);
  if (range == nullptr) return wrong("a kernel reads or writes plain host memory");
  if (device >= 0 && range->device >= 0 && range->device != device) {
    return wrong("a kernel on device " + std::to_string(device) +
                 " reads or writes memory of device " + std::to_string(range->device) +
                 " that is not mapped there");
  }
  return {};
}

void FakeCuda::spin(int device, Stream stream, std::function<void()> begun,
                    std::shared_ptr<fake::Marker> gate) {
  const Lock lock(mutex_);
  push(device, stream, "kernel", [begun = std::move(begun)](std::uint64_t&) -> Result<bool> {
    begun();
    return true;
  });
  queues_.push(device, stream, fake::Work{"spinning kernel", std::move(gate), nullptr, nullptr});
  changed_.notify_all();
}

void FakeCuda::open_gate(fake::Marker& gate) {
  const Lock lock(mutex_);
  gate.over = true;
  changed_.notify_all();
}

void FakeCuda::copy_in_kernel(void* to, const void* from, std::uint64_t bytes) {
  if (!check_kernel(to, bytes, -1) || !check_kernel(from, bytes, -1)) return;
  if (to == from) return;
  copy_as_a_device(static_cast<std::byte*>(to), static_cast<const std::byte*>(from), bytes);
}

void FakeCuda::push(int device, Stream stream, std::string what,
                    std::function<Result<bool>(std::uint64_t&)> piece,
                    std::shared_ptr<fake::Marker> marks) {
  queues_.push(device, stream,
               fake::Work{std::move(what), nullptr, std::move(piece), std::move(marks)});
  changed_.notify_all();
}

Status FakeCuda::copy(int device, std::span<const CopyItem> items, Stream stream) {
  Lock lock(mutex_);
  if (Status s = enter("copy", device); !s) return s;
  if (Status s = check_stream(device, stream); !s) return s;
  bool waits = false;
  for (const CopyItem& item : items) {
    if (item.bytes == 0) continue;
    for (const void* address : {static_cast<const void*>(item.to), item.from}) {
      if (const auto what = memory_.wrong_with(address, item.bytes)) return wrong("copy: " + *what);
    }
    if (memory_.is_pageable(item.to) || memory_.is_pageable(item.from)) {
      waits = true;
      ++pageable_copies_;
    }
  }
  for (const CopyItem& item : items) {
    if (item.bytes == 0) continue;
    push(device, stream, "copy", [this, item, at = std::uint64_t{0}](std::uint64_t& budget) mutable
         -> Result<bool> {
      auto* to = static_cast<std::byte*>(item.to) + at;
      const auto* from = static_cast<const std::byte*>(item.from) + at;
      const std::uint64_t bytes = std::min(budget, item.bytes - at);
      for (const std::byte* address : {static_cast<const std::byte*>(to), from}) {
        if (const auto what = memory_.wrong_with(address, bytes)) {
          return wrong("while a copy ran: " + *what);
        }
      }
      copy_as_a_device(to, from, bytes);
      at += bytes;
      budget -= bytes;
      copied_bytes_ += bytes;
      return at == item.bytes;
    });
  }
  if (!waits) return {};
  // As CUDA's: whatever holds the work back elsewhere, the caller waits for it.
  return wait_for(lock, {queues_.mark(device, stream)});
}

Status FakeCuda::gather(int device, std::span<const GatherItem> items, Stream stream) {
  const Lock lock(mutex_);
  if (Status s = enter("gather", device); !s) return s;
  if (Status s = check_stream(device, stream); !s) return s;
  for (const GatherItem& item : items) {
    if (item.from_type != item.to_type &&
        !(dtype_is_floating(item.from_type) && dtype_is_floating(item.to_type))) {
      return {Code::kInvalid, "expected a cast between f64, f32, f16 and bf16, got one from " +
                                  std::string(dtype_name(item.from_type)) + " to " +
                                  std::string(dtype_name(item.to_type))};
    }
    if (item.elements == 0) continue;
    if (Status s = check_kernel(item.to, item.elements * dtype_size(item.to_type), device); !s) return s;
    if (Status s = check_kernel(item.from, dtype_size(item.from_type), device); !s) return s;
    TensorView tensor;
    tensor.info.name = "gathered";
    tensor.info.dtype = item.from_type;
    tensor.info.shape.assign(item.shape.begin(), item.shape.end());
    if (item.strides.empty()) tensor.info.shape = {static_cast<std::int64_t>(item.elements)};
    tensor.strides.assign(item.strides.begin(), item.strides.end());
    tensor.data = item.from;
    if (tensor.strides.size() > tensor.info.shape.size() ||
        static_cast<std::uint64_t>(tensor.info.elements()) != item.elements) {
      return {Code::kInvalid, "expected a shape of " + std::to_string(item.elements) +
                                  " elements with a stride for each dimension"};
    }
    push(device, stream, "gather",
         [this, device, tensor = std::move(tensor), to = static_cast<std::byte*>(item.to),
          type = item.to_type, elements = item.elements,
          at = std::uint64_t{0}](std::uint64_t& budget) mutable -> Result<bool> {
           const std::uint64_t size = dtype_size(type);
           const std::uint64_t count = std::min(std::max<std::uint64_t>(budget / size, 1),
                                                elements - at);
           if (Status s = check_kernel(to + at * size, count * size, device); !s) return s;
           if (Status s = check_kernel(tensor.data, 1, device); !s) return s;
           if (Status s = codec::gather(to + at * size, type, tensor, at, count); !s) return s;
           at += count;
           budget -= std::min(budget, count * size);
           return at == elements;
         });
  }
  return {};
}

class FakeCuda::FakeDigests : public DigestJob {
 public:
  FakeDigests(FakeCuda& cuda, int device, std::size_t max_parts, std::size_t max_sums)
      : cuda_(cuda), device_(device), max_parts_(max_parts), state_(std::make_shared<State>()) {
    state_->sums.resize(max_sums);
  }
  ~FakeDigests() override {
    const Lock lock(cuda_.mutex_);
    --cuda_.digest_jobs_;
    if (state_->end != nullptr && !state_->end->over) {
      cuda_.violations_.push_back("a digest job ended while it ran");
    }
  }

  Status start(std::span<const DigestPart> parts, Stream stream) override {
    const Lock lock(cuda_.mutex_);
    if (Status s = cuda_.enter("digest", device_); !s) return s;
    if (Status s = cuda_.check_stream(device_, stream); !s) return s;
    if (state_->end != nullptr && !state_->end->over) {
      return cuda_.wrong("a digest job was started while it ran");
    }
    if (parts.size() > max_parts_) {
      return {Code::kInvalid, "expected at most " + std::to_string(max_parts_) + " parts, got " +
                                  std::to_string(parts.size())};
    }
    for (const DigestPart& part : parts) {
      if (part.sum >= state_->sums.size()) {
        return {Code::kInvalid, "expected a sum below " + std::to_string(state_->sums.size()) +
                                    ", got " + std::to_string(part.sum)};
      }
      if (reinterpret_cast<std::uintptr_t>(part.to) % 8 != 0) {
        return {Code::kInvalid, "expected a place to copy to at a multiple of 8"};
      }
      if (part.bytes == 0) continue;
      if (Status s = cuda_.check_kernel(part.data, part.bytes, device_); !s) return s;
      if (part.to == nullptr) continue;
      if (Status s = cuda_.check_kernel(part.to, part.bytes, device_); !s) return s;
    }
    state_->running.assign(state_->sums.size(), base::Digest{});
    for (const DigestPart& part : parts) {
      if (part.bytes != 0) cuda_.push(device_, stream, "digest", piece_of(part));
    }
    state_->end = std::make_shared<fake::Marker>();
    cuda_.push(device_, stream, "sums",
               [state = state_](std::uint64_t&) -> Result<bool> {
                 state->sums = state->running;
                 return true;
               },
               state_->end);
    return {};
  }

  std::span<const base::Digest> sums() const noexcept override { return state_->sums; }

 private:
  struct State {
    std::vector<base::Digest> sums;
    std::vector<base::Digest> running;
    std::shared_ptr<fake::Marker> end;
  };

  std::function<Result<bool>(std::uint64_t&)> piece_of(const DigestPart& part) {
    return [&cuda = cuda_, state = state_, part,
            at = std::uint64_t{0}](std::uint64_t& budget) mutable -> Result<bool> {
      // Copied first, so that the race with a trainer that writes stays in one place.
      std::byte piece[4096];
      const std::uint64_t bytes = std::min<std::uint64_t>(
          {std::max<std::uint64_t>(budget / 8 * 8, 8), sizeof piece, part.bytes - at});
      const auto* from = static_cast<const std::byte*>(part.data) + at;
      if (const auto what = cuda.memory_.wrong_with(from, bytes)) {
        return cuda.wrong("while a digest ran: " + *what);
      }
      copy_as_a_device(piece, from, bytes);
      state->running[part.sum] += codec::digest(piece, bytes, part.first_word + at / 8);
      if (part.to != nullptr) {
        auto* const to = static_cast<std::byte*>(part.to) + at;
        if (const auto what = cuda.memory_.wrong_with(to, bytes)) {
          return cuda.wrong("while a digest copied: " + *what);
        }
        copy_as_a_device(to, piece, bytes);
        cuda.copied_bytes_ += bytes;
      }
      at += bytes;
      budget -= std::min(budget, bytes);
      return at == part.bytes;
    };
  }

  FakeCuda& cuda_;
  int device_;
  std::size_t max_parts_;
  std::shared_ptr<State> state_;
};

Result<std::unique_ptr<DigestJob>> FakeCuda::make_digests(int device, std::size_t max_parts,
                                                          std::size_t max_sums) {
  const Lock lock(mutex_);
  if (Status s = enter("make_digests", device); !s) return s;
  ++digest_jobs_;
  return std::unique_ptr<DigestJob>(
      std::make_unique<FakeDigests>(*this, device, max_parts, max_sums));
}

}  // namespace weightcast::driver
