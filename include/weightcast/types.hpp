// Words of the field, as types: what a policy is made of and how its versions are numbered.
#pragma once

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <weightcast/status.hpp>

namespace weightcast {

/// Time of deadlines: monotonic, the same for all processes of a host (CLOCK_MONOTONIC).
using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
using Duration = std::chrono::nanoseconds;

/// Element types that a policy's tensors may have.
enum class DType : std::uint8_t {
  kF64 = 1, kF32 = 2, kF16 = 3, kBF16 = 4,
  kI64 = 5, kI32 = 6, kI16 = 7, kI8 = 8, kU8 = 9, kBool = 10
};

/// Bytes of one element; 0 for a value that is no DType.
WEIGHTCAST_API std::size_t dtype_size(DType dtype) noexcept;
/// "f32", "bf16", ...; "?" for a value that is no DType.
WEIGHTCAST_API std::string_view dtype_name(DType dtype) noexcept;
/// True for f64, f32, f16 and bf16.
WEIGHTCAST_API bool dtype_is_floating(DType dtype) noexcept;

/// One life of a trainer job. Ordered: a later start is greater. {0, 0} is no run.
struct Run {
  std::uint64_t started_us = 0;  ///< wall-clock microseconds since 1970 at the start of rank 0
  std::uint32_t tie = 0;         ///< random, tells two starts in the same microsecond apart
  auto operator<=>(const Run&) const = default;
  bool is_none() const noexcept { return started_us == 0 && tie == 0; }
};

/// A weight version: the number counts the trainer's publish points, from 1, the same on every
/// rank. Points that were coalesced into a later one leave gaps. number 0 is no version.
struct Version {
  Run run;
  std::uint64_t number = 0;
  auto operator<=>(const Version&) const = default;
  bool is_none() const noexcept { return number == 0; }
};

/// "started_us.tie:number", for logs.
WEIGHTCAST_API std::string to_string(const Version& version);
WEIGHTCAST_API std::string to_string(const Run& run);

/// What a tensor is, without its bytes. Where a tensor is sharded over the trainer's ranks, it is what
/// one rank holds of it: a box, of its own shape, at `origin` within `global_shape`.
struct TensorInfo {
  std::string name;
  std::vector<std::string> aliases;  ///< further names of the same storage (tied weights)
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;   ///< empty for a scalar; a dimension may be 0
  bool buffer = false;               ///< not trained by gradient: BatchNorm statistics, normalizers
  std::vector<std::int64_t> global_shape{};  ///< of the whole tensor; empty: this is the whole
  std::vector<std::int64_t> origin{};  ///< index of the box's first element in the whole; as many
                                       ///< numbers as global_shape has, empty where that is empty

  /// Whether this is one rank's box of a tensor that is sharded.
  bool is_box() const noexcept { return !global_shape.empty(); }
  const std::vector<std::int64_t>& whole_shape() const noexcept {
    return is_box() ? global_shape : shape;
  }

  std::int64_t elements() const noexcept {
    std::int64_t n = 1;
    for (std::int64_t d : shape) n *= d;
    return n;
  }
  std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(elements()) * dtype_size(dtype);
  }
  bool operator==(const TensorInfo&) const = default;
};

/// A box of a published tensor, and where it goes in a tensor of the engine. Both are of the same
/// element type and number of dimensions.
struct LayoutPiece {
  std::string source;                       ///< name or alias of a published tensor
  std::vector<std::int64_t> source_origin{};  ///< the box's first element in it; empty: zeros
  std::vector<std::int64_t> shape{};        ///< of the box; empty: from source_origin to the end
  std::vector<std::int64_t> origin{};       ///< where it goes in the engine's tensor; empty: zeros
};

/// A tensor as an engine wants it: fused of several published ones, a slice of one, or as it is.
struct LayoutTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<LayoutPiece> pieces;  ///< disjoint; together they fill the shape
};

/// What an engine wants of a policy and how it lies there. Empty: every tensor, whole, as published.
using Layout = std::vector<LayoutTensor>;

/// How a version goes to the receivers.
enum class Mode {
  kBroadcast,  ///< every version to all receivers together; the next one waits for them
  kP2p         ///< each receiver joins, takes versions in and catches up at a pace of its own
};

/// How bytes travel.
enum class TransportChoice {
  kAuto,  ///< the best that both ends share: cuda_ipc, nccl, shm on one host, tcp
  kShm,   ///< shared memory of one host
  kTcp,   ///< ZeroMQ over TCP, always encrypted, between hosts or over loopback
  kCudaIpc,  ///< device memory of one host: the engine maps the trainer's device slots
  kNccl      ///< NCCL between devices; its bytes are not encrypted: see `trusted_fabric`
};

/// A tensor of the trainer at a publish point.
struct TensorView {
  TensorInfo info;                    ///< dtype is the one in memory, before any cast at publish
  const void* data = nullptr;         ///< the first element; may be null where elements() is 0
  std::vector<std::int64_t> strides;  ///< in elements; empty means contiguous (row-major)
  int device = -1;  ///< the accelerator whose memory `data` lies in; -1: host memory
};

/// All tensors of a policy at a publish point, in the same order on every rank. Of a sharded tensor
/// each rank lists its own box, an empty one where it holds none of it.
struct TensorList {
  std::vector<TensorView> tensors;
  /// Keeps every `data` alive until the copies have ended, even if the trainer frees the tensors.
  std::shared_ptr<const void> keep_alive;
  /// Called once when the copies have ended, from a worker thread, or from fence() where that orders
  /// them before what the trainer does next: false voids the point, because a tensor was written to
  /// meanwhile. Empty means always unchanged. Must not throw.
  std::function<bool()> unchanged;
  /// Of tensors on a device (all on the same one): the native handle of the stream (cudaStream_t)
  /// that wrote them last and will write them next; null is the device's default stream.
  void* stream = nullptr;
};

}  // namespace weightcast
