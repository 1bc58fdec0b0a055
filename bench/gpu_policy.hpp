// A policy in a device's memory, shaped like Qwen3-8B in BF16 or smaller, whose every version has
// other bytes in every tensor; and a plain hash of such tensors, on purpose another one than the
// library's digest and computed on the CPU.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <weightcast/publisher.hpp>

#include "gpu_support.hpp"

namespace bench {

struct Shape {
  int layers = 36;
  std::int64_t hidden = 4096;
  std::int64_t inner = 12288;
  std::int64_t kv = 1024;
  std::int64_t head = 128;
  std::int64_t vocabulary = 151936;

  /// Of about so many bytes: Qwen3-8B, made smaller in all directions. 0: Qwen3-8B itself.
  /// Throws below 1 MB.
  static Shape of_bytes(std::uint64_t bytes);
};

/// Bytes of a device's memory to hash, in the order of their tensors' names.
struct HashedBytes {
  std::string name;
  const void* data = nullptr;
  std::uint64_t bytes = 0;
};

/// Hashes device memory by way of pinned buffers. Blocks. Thread safety: one thread.
class Hasher {
 public:
  explicit Hasher(Device device);
  /// Sorts by name. 32 hexadecimal digits of XXH3-128.
  std::string hash(std::vector<HashedBytes> parts, Stream& stream);
  /// Of a whole policy's tensors as an engine has them, one hash for each of `ranks`, equal to that
  /// rank's DevicePolicy::hash().
  std::vector<std::string> hashes(const std::vector<weightcast::TensorInfo>& infos,
                                  const std::vector<const void*>& data, std::uint32_t ranks,
                                  Stream& stream);

 private:
  Device device_;
  Buffer bounce_;
};

/// A rank's part of the policy. Tensors of the shape are cut over the ranks by their first
/// dimension; buffers are whole on each.
/// Thread safety: one thread.
class DevicePolicy {
 public:
  struct Options {
    Shape shape;
    bool buffers = false;  ///< with a few buffers, of which one is a scalar and one of odd size
    std::uint32_t rank = 0;
    std::uint32_t world = 1;
  };

  DevicePolicy(Device device, const Options& options);

  std::uint64_t bytes() const noexcept { return bytes_; }
  std::size_t count() const noexcept { return tensors_.size(); }

  /// Queues what gives every tensor the bytes of that version, as an optimizer's step would.
  void become(std::uint64_t version, Stream& stream);

  /// `stream` is the one that become() is called with.
  weightcast::Publisher::Lister lister(const Stream& stream);

  /// The hash of this rank's bytes as they are now: D2H copies by themselves, then XXH3.
  std::string hash(Stream& stream);

 private:
  struct Tensor {
    weightcast::TensorInfo info;
    std::uint64_t at = 0;     ///< in memory_
    std::uint64_t first = 0;  ///< byte of the whole tensor that its first one is
  };

  void add(std::string name, std::vector<std::int64_t> shape, weightcast::DType dtype,
           bool is_buffer, const Options& options);

  Device device_;
  std::vector<Tensor> tensors_;
  std::uint64_t bytes_ = 0;
  std::uint64_t room_ = 0;
  Buffer memory_;
  Buffer pattern_;
  std::vector<CopyItem> items_;
  Hasher hasher_;
};

}  // namespace bench
