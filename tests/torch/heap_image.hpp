// A version in memory of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <weightcast/subscriber.hpp>
#include <weightcast/torch/tensor_list.hpp>

namespace weightcast_test {

/// Made of a module's tensors as they are now.
class HeapImage final : public weightcast::PolicyImage {
 public:
  HeapImage(std::uint64_t number, const std::vector<weightcast::NamedTensor>& tensors) : version_{{1, 1}, number} {
    weightcast::TensorList list;
    const weightcast::Status status = weightcast::list_tensors(tensors, {}, list);
    EXPECT_TRUE(status) << status.to_string();
    for (auto& view : list.tensors) {
      const std::size_t bytes = view.info.bytes();
      memory_.push_back(std::make_unique<Block[]>(bytes / sizeof(Block) + 1));
      EXPECT_TRUE(view.strides.empty());
      if (bytes > 0) std::memcpy(memory_.back().get(), view.data, bytes);
      placed_.push_back({std::move(view.info), memory_.back().get()});
    }
  }
  const weightcast::Version& version() const noexcept override { return version_; }
  const std::vector<weightcast::PlacedTensor>& tensors() const noexcept override { return placed_; }
  const weightcast::PlacedTensor* find(std::string_view name) const noexcept override {
    for (const auto& p : placed_) {
      if (p.info.name == name) return &p;
      for (const auto& alias : p.info.aliases) {
        if (alias == name) return &p;
      }
    }
    return nullptr;
  }
  std::vector<weightcast::TensorInfo> infos() const {
    std::vector<weightcast::TensorInfo> out;
    for (const auto& p : placed_) out.push_back(p.info);
    return out;
  }

 private:
  struct alignas(64) Block {
    std::byte bytes[64];
  };
  weightcast::Version version_;
  std::vector<std::unique_ptr<Block[]>> memory_;
  std::vector<weightcast::PlacedTensor> placed_;
};

}  // namespace weightcast_test
