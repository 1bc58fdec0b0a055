// A trainer's policy without torch: a few tensors in plain memory whose every byte follows from the
// training step, so that a lease can be checked against the trainer's step at its publish point.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>

namespace weightcast::test {

class ToyPolicy {
 public:
  struct Tensor {
    TensorInfo info;
    std::shared_ptr<std::vector<std::byte>> bytes;
  };

  /// `scale` multiplies the sizes; scale 1 is some 100 KB, with small, large and empty tensors.
  explicit ToyPolicy(std::int64_t scale = 1) {
    add("embed.weight", DType::kF32, {64 * scale, 128});
    add("layer.0.weight", DType::kBF16, {96 * scale, 130});
    add("layer.0.bias", DType::kF32, {97});
    add("norm.running_mean", DType::kF64, {33}, true);
    add("norm.steps", DType::kI64, {}, true);
    add("mask", DType::kBool, {7, 3}, true);
    add("empty", DType::kF32, {0, 4});
    add("head.weight", DType::kF16, {40 * scale, 65});
    step(0);
  }

  void add(const std::string& name, DType dtype, std::vector<std::int64_t> shape,
           bool buffer = false) {
    Tensor tensor;
    tensor.info = {name, {}, dtype, std::move(shape), buffer};
    tensor.bytes = std::make_shared<std::vector<std::byte>>(tensor.info.bytes());
    tensors.push_back(std::move(tensor));
  }

  /// What byte `at` of tensor `index` is after training step `number`.
  static std::byte expected(std::size_t index, std::size_t at, std::uint64_t number) {
    return static_cast<std::byte>((number * 0x9e3779b97f4a7c15ULL >> 40) + at * 7 + index * 31 +
                                  (at >> 8));
  }

  /// The bytes of expected() from a multiple of 256 on, as many at once: tests are compiled without
  /// optimization, and do this all the time.
  static const std::byte* expected_block(std::size_t index, std::size_t at, std::uint64_t number) {
    // By the first byte; in a block each byte is 7 more than the one before.
    static const auto kBlocks = [] {
      std::array<std::array<std::byte, kBlock>, 256> blocks{};
      for (std::size_t first = 0; first < blocks.size(); ++first) {
        for (std::size_t i = 0; i < kBlock; ++i) {
          blocks[first][i] = static_cast<std::byte>(first + i * 7);
        }
      }
      return blocks;
    }();
    return kBlocks[static_cast<std::size_t>(expected(index, at, number))].data();
  }

  /// An optimizer step: rewrites everything in place.
  void step(std::uint64_t number) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      std::byte* bytes = tensors[i].bytes->data();
      const std::size_t size = tensors[i].bytes->size();
      for (std::size_t at = 0; at < size; at += kBlock) {
        std::memcpy(bytes + at, expected_block(i, at, number), std::min(kBlock, size - at));
      }
    }
  }

  Publisher::Lister lister() {
    return [this](TensorList& list) {
      auto alive = std::make_shared<std::vector<std::shared_ptr<std::vector<std::byte>>>>();
      for (const Tensor& tensor : tensors) {
        list.tensors.push_back({tensor.info, tensor.bytes->data(), {}});
        alive->push_back(tensor.bytes);
      }
      list.keep_alive = alive;
      return Status::ok();
    };
  }

  /// What of `image` differs from the policy after training step `number`; empty where nothing does.
  std::string difference(const PolicyImage& image, std::uint64_t number) const {
    if (image.tensors().size() != tensors.size()) {
      return std::to_string(image.tensors().size()) + " tensors instead of " +
             std::to_string(tensors.size());
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const PlacedTensor* placed = image.find(tensors[i].info.name);
      if (placed == nullptr) return tensors[i].info.name + " is missing";
      if (placed->info != tensors[i].info) return tensors[i].info.name + " has changed its kind";
      const auto* data = static_cast<const std::byte*>(placed->data);
      const std::size_t size = placed->info.bytes();
      for (std::size_t block = 0; block < size; block += kBlock) {
        const std::size_t end = std::min(block + kBlock, size);
        if (std::memcmp(data + block, expected_block(i, block, number), end - block) == 0) continue;
        for (std::size_t at = block; at < end; ++at) {
          if (data[at] == expected(i, at, number)) continue;
          return tensors[i].info.name + " differs at byte " + std::to_string(at);
        }
      }
    }
    return {};
  }

  std::vector<Tensor> tensors;

 private:
  static constexpr std::size_t kBlock = 256;
};

}  // namespace weightcast::test
