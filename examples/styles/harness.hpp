// What the four styles have in common beside their learning, with and without weightcast: samples
// on their way from the worker to the trainer, and the proof that the worker served the trainer's
// bits.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include <torch/types.h>

namespace styles {

/// Hashes of what was published and of what was served, by version number. Lies in shared memory,
/// so that it holds for threads and for a forked worker. Both sides may record at the same time.
class Ledger {
 public:
  static constexpr std::size_t kVersions = 4096;

  /// To be called between the publish point and the next change of the weights. A version that is
  /// recorded already is passed over: then that publish point was coalesced into a later one.
  void published(std::uint64_t version, const std::vector<torch::Tensor>& tensors);

  /// What the worker computes with, under a lease.
  void served(std::uint64_t version, const std::vector<torch::Tensor>& tensors);

  /// Prints the counts. @return whether at least `floor` versions were served, all of them with the
  /// trainer's bits
  bool agrees(const char* name, std::size_t floor) const;

 private:
  struct Version {
    std::atomic<std::uint64_t> published{0};  // 0: not
    std::atomic<std::uint64_t> served{0};
  };
  Version versions_[kVersions];
  std::atomic<std::uint64_t> torn_{0};  // served twice with different bits, or beyond kVersions
};

/// Batches of samples on a socket pair: a few fit, then send() waits. One thread at each end.
class Samples {
 public:
  explicit Samples(int socket) : socket_(socket) {}

  /// @param batch floats of shape (samples, columns), at most 2 KiB
  /// @return false when the other end is gone, or has not read for a minute
  bool send(const torch::Tensor& batch);

  /// @return a batch as it was sent
  /// @throw std::runtime_error when the other end is gone, or has sent nothing for a minute
  torch::Tensor receive();

 private:
  int socket_;
};

struct Loop {
  Ledger& ledger;
  Samples& samples;
};

enum class Worker { kThread, kProcess };

/// Runs a trainer in this thread and one worker beside it, which ends when the trainer does.
///
/// @param train returns a score of what was learnt
/// @param work  returns when send() is false
/// @param wanted the least score that shows learning
/// @return what main() returns: 0 when the score is reached and the ledger agrees
int run(const char* name, Worker where, const std::function<double(Loop&)>& train,
        const std::function<void(Loop&)>& work, double wanted);

}  // namespace styles
