// A trainer's policy without torch: a few tensors in plain memory whose every byte follows from the
// training step, so that a lease can be checked against the trainer's step at its publish point.
#pragma once

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

  /// An optimizer step: rewrites everything in place.
  void step(std::uint64_t number) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      auto& bytes = *tensors[i].bytes;
      for (std::size_t at = 0; at < bytes.size(); ++at) bytes[at] = expected(i, at, number);
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
      for (std::size_t at = 0; at < placed->info.bytes(); ++at) {
        if (data[at] != expected(i, at, number)) {
          return tensors[i].info.name + " differs at byte " + std::to_string(at);
        }
      }
    }
    return {};
  }

  std::vector<Tensor> tensors;
};

}  // namespace weightcast::test
