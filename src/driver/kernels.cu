#include <cuda_runtime.h>

#include "driver/element_cast.hpp"
#include "driver/kernels.hpp"

namespace weightcast::driver {
namespace {

constexpr int kThreads = 256;

__device__ std::uint64_t sum_of_warp(std::uint64_t value) {
  for (int step = 16; step > 0; step /= 2) {
    value += __shfl_down_sync(0xFFFFFFFFu, static_cast<unsigned long long>(value), step);
  }
  return value;
}

// No barrier: each warp adds what it has to the sums itself, 16 atomics for 128 KiB.
__global__ void __launch_bounds__(kThreads, kDigestBlocks)
    digest_tiles(const DigestEntry* __restrict__ entries, std::uint32_t count, std::uint64_t tiles,
                 std::uint64_t tile_bytes, DigestSum* __restrict__ sums) {
  for (std::uint64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const DigestEntry entry = entries[entry_of(entries, count, tile)];
    DigestSum sum;
    add_tile(sum, entry, tile, tile_bytes, threadIdx.x, kThreads);
    const std::uint64_t a = sum_of_warp(sum.a);
    const std::uint64_t b = sum_of_warp(sum.b);
    if (threadIdx.x % 32 == 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(&sums[entry.sum].a), a);
      atomicAdd(reinterpret_cast<unsigned long long*>(&sums[entry.sum].b), b);
    }
  }
}

template <class Size>
struct Raw {
  using Bits = Size;
};

template <class To, class From>
struct Move {
  __device__ static typename To::Bits of(typename From::Bits value) {
    return To::narrow(From::widen(value));
  }
};
template <class Same>
struct Move<Same, Same> {
  __device__ static typename Same::Bits of(typename Same::Bits value) { return value; }
};

template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    gather_tiles(const __grid_constant__ GatherBatch batch) {
  std::int32_t e = batch.count - 1;
  while (batch.entries[e].first_tile > blockIdx.x) --e;
  const GatherEntry& entry = batch.entries[e];
  const std::uint64_t begin = (blockIdx.x - entry.first_tile) * kGatherTile;
  const std::uint64_t end =
      begin + kGatherTile < entry.elements ? begin + kGatherTile : entry.elements;
  auto* to = reinterpret_cast<typename To::Bits*>(entry.to);
  const auto* from = reinterpret_cast<const typename From::Bits*>(entry.from);
#pragma unroll 4
  for (std::uint64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    to[i] = Move<To, From>::of(from[offset_of(entry, i)]);
  }
}

template <class To, class From>
cudaError_t gather(const GatherBatch& batch, cudaStream_t stream) {
  // The grid's first dimension goes to 2^31 - 1: 17 T elements.
  gather_tiles<To, From><<<static_cast<unsigned>(batch.tiles), kThreads, 0, stream>>>(batch);
  return cudaGetLastError();
}

template <class To>
cudaError_t gather_from(const GatherBatch& batch, Element from, cudaStream_t stream) {
  switch (from) {
    case Element::kF64: return gather<To, element::F64>(batch, stream);
    case Element::kF32: return gather<To, element::F32>(batch, stream);
    case Element::kF16: return gather<To, element::F16>(batch, stream);
    case Element::kBF16: return gather<To, element::BF16>(batch, stream);
    default: return cudaErrorInvalidValue;
  }
}

template <class Size>
cudaError_t move(const GatherBatch& batch, cudaStream_t stream) {
  return gather<Raw<Size>, Raw<Size>>(batch, stream);
}

}  // namespace

int launch_digest(const DigestEntry* entries, std::uint32_t count, std::uint64_t tiles,
                  std::uint64_t tile_bytes, DigestSum* sums, int multiprocessors, void* stream) {
  const std::uint64_t most = static_cast<std::uint64_t>(multiprocessors) * kDigestBlocks;
  const auto blocks = static_cast<unsigned>(tiles < most ? tiles : most);
  digest_tiles<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(entries, count, tiles,
                                                                          tile_bytes, sums);
  return cudaGetLastError();
}

int launch_gather(const GatherBatch& batch, Element to, Element from, void* stream) {
  auto* on = static_cast<cudaStream_t>(stream);
  switch (to) {
    case Element::kF64: return gather_from<element::F64>(batch, from, on);
    case Element::kF32: return gather_from<element::F32>(batch, from, on);
    case Element::kF16: return gather_from<element::F16>(batch, from, on);
    case Element::kBF16: return gather_from<element::BF16>(batch, from, on);
    case Element::kRaw1: return move<std::uint8_t>(batch, on);
    case Element::kRaw2: return move<std::uint16_t>(batch, on);
    case Element::kRaw4: return move<std::uint32_t>(batch, on);
    case Element::kRaw8: return move<std::uint64_t>(batch, on);
  }
  return cudaErrorInvalidValue;
}

}  // namespace weightcast::driver
