// How the plain twin with a worker in the same process brings weights over: a copy under a lock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <vector>

#include <torch/types.h>
#include <torch/utils.h>

namespace styles {

/// Safe for one writer and any number of readers.
class SharedWeights {
 public:
  /// @return the number of this version, from 1
  std::uint64_t write(const std::vector<torch::Tensor>& tensors) {
    const std::lock_guard lock(mutex_);
    copies_.clear();
    for (const auto& tensor : tensors) copies_.push_back(tensor.detach().clone());
    first_.notify_all();
    return ++version_;
  }

  /// Copies the newest version into the tensors, which must be as those that were written. Waits a
  /// minute at most for the first.
  /// @return its number
  std::uint64_t read(const std::vector<torch::Tensor>& into) {
    const torch::NoGradGuard no_grad;
    std::unique_lock lock(mutex_);
    if (!first_.wait_for(lock, std::chrono::minutes(1), [this] { return version_ > 0; })) {
      throw std::runtime_error("no weights for a minute");
    }
    for (std::size_t i = 0; i < into.size(); ++i) into[i].detach().copy_(copies_[i]);
    return version_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable first_;
  std::vector<torch::Tensor> copies_;
  std::uint64_t version_ = 0;
};

}  // namespace styles
