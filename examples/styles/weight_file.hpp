// How the plain twins with a worker in another process bring weights over: a file that is replaced.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <torch/serialize.h>
#include <torch/types.h>
#include <torch/utils.h>
#include <unistd.h>

namespace styles {

class WeightFile {
 public:
  WeightFile()
      : path_(std::filesystem::temp_directory_path() /
              ("weights-" + std::to_string(getpid()) + ".pt")) {}
  ~WeightFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;

  /// @return the number of this version, from 1
  std::uint64_t write(std::vector<torch::Tensor> tensors) {
    tensors.push_back(torch::tensor(static_cast<std::int64_t>(++version_)));
    torch::save(tensors, path_.string() + ".new");
    std::filesystem::rename(path_.string() + ".new", path_);
    return version_;
  }

  /// Copies the newest version into the tensors, which must be as those that were written. Waits up
  /// to a minute for the first.
  /// @return its number
  std::uint64_t read(const std::vector<torch::Tensor>& into) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!std::filesystem::exists(path_) && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    std::vector<torch::Tensor> tensors;
    torch::load(tensors, path_.string());
    if (tensors.size() != into.size() + 1)
      throw std::runtime_error(path_.string() + " is of another model");
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < into.size(); ++i) into[i].detach().copy_(tensors[i]);
    return static_cast<std::uint64_t>(tensors.back().item<std::int64_t>());
  }

 private:
  std::filesystem::path path_;
  std::uint64_t version_ = 0;
};

}  // namespace styles
