#pragma once

#include <cstdint>
#include <fstream>
#include <string>

#include "weight_tag.hpp"

namespace torch::nn {
class Module;
}

namespace rl_loop {

/// XXH3 (64 bits) over name, dtype, shape and bytes of every parameter and buffer, in the order of
/// their names. Reads the tensors that the module holds at this moment.
[[nodiscard]] std::uint64_t hash_tensors(const torch::nn::Module& module);

/// What the trainer held when it published: one JSON line {run, version, monotonic_ns, hash} each.
class PublishProof {
 public:
  /// @param path empty: record() does nothing. Ranks above 0 write to path.rank<N>.
  /// @throw std::runtime_error when the file cannot be written.
  PublishProof(const std::string& path, int rank);

  /// To be called between the publish point and the next change of the weights. A version that is
  /// recorded already is passed over: then the publish point in between made none.
  void record(WeightTag tag, const torch::nn::Module& module);

 private:
  std::ofstream file_;
  WeightTag last_;
};

/// What a worker computed with: one JSON line {run, version, acquire_ns, release_ns, hash_start,
/// hash_end} each lease. The lines of a worker that was killed end in the middle of one.
class ServeProof {
 public:
  /// @param path empty: begin() and end() do nothing.
  /// @throw std::runtime_error when the file cannot be written.
  explicit ServeProof(const std::string& path);

  /// @param acquired_ns monotonic_ns() before the lease was asked for.
  void begin(WeightTag tag, const torch::nn::Module& module, std::int64_t acquired_ns);
  void end(const torch::nn::Module& module);

 private:
  std::ofstream file_;
  WeightTag tag_;
  std::int64_t acquire_ns_ = 0;
  std::uint64_t hash_start_ = 0;
};

}  // namespace rl_loop
