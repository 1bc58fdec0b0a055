// A policy of some 64 MB that two trainer ranks hold by boxes, and what engines may want of it.
// Every element follows from the version's number, its tensor and its place in the whole tensor.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/publisher.hpp>
#include <weightcast/subscriber.hpp>

namespace weightcast::test {

/// A whole tensor of two dimensions, and where it is cut between rank 0 and rank 1.
struct ShardedTensor {
  enum class Cut { kRows, kColumns, kNone };  ///< kNone: both ranks hold all of it
  std::string name;
  DType dtype;
  std::int64_t rows;
  std::int64_t columns;
  Cut cut;
  std::int64_t at;  ///< first row or column of rank 1
};

inline const std::vector<ShardedTensor>& sharded_tensors() {
  using Cut = ShardedTensor::Cut;
  static const std::vector<ShardedTensor> kTensors{
      {"up.weight", DType::kF32, 2048, 2048, Cut::kRows, 1001},
      {"down.weight", DType::kF32, 2048, 2048, Cut::kColumns, 1030},
      {"q.weight", DType::kBF16, 1024, 2048, Cut::kRows, 512},
      {"k.weight", DType::kBF16, 1024, 2048, Cut::kRows, 300},
      {"v.weight", DType::kBF16, 1024, 2048, Cut::kColumns, 1024},
      {"head.weight", DType::kBF16, 3072, 2048, Cut::kRows, 1500},
      {"embed.weight", DType::kF32, 1024, 2048, Cut::kNone, 0},
      {"norm.weight", DType::kF32, 1, 2048, Cut::kNone, 0},
  };
  return kTensors;
}

inline std::uint64_t bytes_of(const ShardedTensor& tensor) {
  return static_cast<std::uint64_t>(tensor.rows * tensor.columns) * dtype_size(tensor.dtype);
}

inline std::uint64_t whole_policy_bytes() {
  std::uint64_t sum = 0;
  for (const ShardedTensor& tensor : sharded_tensors()) sum += bytes_of(tensor);
  return sum;
}

/// An element's bits in version `number` are this, mixed once more; as many of the lowest as it has.
/// The next column's is kMix more.
constexpr std::uint32_t kMix = 0xc2b2ae35u;
inline std::uint32_t mixed_bits(std::uint64_t number, std::size_t tensor, std::int64_t row,
                                std::int64_t column) {
  const auto place = static_cast<std::uint32_t>(row * 4099 + column);
  const auto seed = static_cast<std::uint32_t>(number * 0x9e3779b1u + tensor * 0x85ebca6bu);
  return (place + seed) * kMix;
}

/// Writes `count` elements of a row, each of 2 or 4 bytes. `out` is aligned to them.
inline void fill_row(std::byte* out, std::size_t size, std::int64_t count, std::uint64_t number,
                     std::size_t tensor, std::int64_t row, std::int64_t column) {
  const auto fill = [&]<class Element>(Element*) {
    auto* elements = reinterpret_cast<Element*>(out);
    // Without a call for each of millions: tests are compiled without optimization.
    std::uint32_t mixed = mixed_bits(number, tensor, row, column);
    for (std::int64_t i = 0; i < count; ++i, mixed += kMix) {
      elements[i] = static_cast<Element>(mixed ^ (mixed >> 15));
    }
  };
  size == 2 ? fill(static_cast<std::uint16_t*>(nullptr))
            : fill(static_cast<std::uint32_t*>(nullptr));
}

/// One rank's boxes in plain memory.
class ShardedPolicy {
 public:
  explicit ShardedPolicy(std::uint32_t rank) {
    using Cut = ShardedTensor::Cut;
    for (const ShardedTensor& whole : sharded_tensors()) {
      Box box{{whole.name, {}, whole.dtype, {whole.rows, whole.columns}}, 0, 0, {}};
      if (whole.cut != Cut::kNone) {
        const std::size_t dimension = whole.cut == Cut::kRows ? 0 : 1;
        box.info.global_shape = box.info.shape;
        box.info.origin = {0, 0};
        box.info.shape[dimension] = rank == 0 ? whole.at : box.info.shape[dimension] - whole.at;
        box.info.origin[dimension] = rank == 0 ? 0 : whole.at;
        box.row = box.info.origin[0];
        box.column = box.info.origin[1];
      }
      box.bytes = std::make_shared<std::vector<std::byte>>(box.info.bytes());
      boxes_.push_back(std::move(box));
    }
  }

  /// What an optimizer step before publish point `number` leaves.
  void step(std::uint64_t number) {
    for (std::size_t i = 0; i < boxes_.size(); ++i) {
      Box& box = boxes_[i];
      const std::size_t size = dtype_size(box.info.dtype);
      std::byte* out = box.bytes->data();
      const std::int64_t columns = box.info.shape[1];
      for (std::int64_t row = 0; row < box.info.shape[0]; ++row) {
        fill_row(out, size, columns, number, i, box.row + row, box.column);
        out += static_cast<std::size_t>(columns) * size;
      }
    }
  }

  Publisher::Lister lister() {
    return [this](TensorList& list) {
      for (const Box& box : boxes_) list.tensors.push_back({box.info, box.bytes->data(), {}});
      return Status::ok();
    };
  }

  /// Of the weights in this rank's memory.
  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const Box& box : boxes_) sum += box.info.bytes();
    return sum;
  }

 private:
  struct Box {
    TensorInfo info;
    std::int64_t row;
    std::int64_t column;
    std::shared_ptr<std::vector<std::byte>> bytes;
  };
  std::vector<Box> boxes_;
};

/// A tensor as an engine has it: which element of which published tensor belongs where.
struct WantedTensor {
  struct Part {
    std::size_t tensor;        ///< of sharded_tensors()
    std::int64_t row, column;  ///< its element that comes first
    std::int64_t rows;         ///< one part below the other; all as wide as the tensor
  };
  LayoutTensor layout;
  DType dtype;
  std::vector<Part> parts;
};

/// "whole", "left", "right" (the halves across the ranks' cuts), "fused" (q, k and v in one).
inline std::vector<WantedTensor> wanted_by(const std::string& kind) {
  using Cut = ShardedTensor::Cut;
  std::vector<WantedTensor> wanted;
  const bool right = kind == "right";
  for (std::size_t i = 0; i < sharded_tensors().size(); ++i) {
    const ShardedTensor& tensor = sharded_tensors()[i];
    const std::string first = tensor.name.substr(0, 2);
    if (kind == "fused" && (first == "q." || first == "k." || first == "v.")) {
      if (first == "q.")
        wanted.push_back({{"qkv.weight", {0, tensor.columns}, {}}, tensor.dtype, {}});
      WantedTensor& qkv = wanted.back();
      std::int64_t& rows = qkv.layout.shape[0];
      qkv.layout.pieces.push_back({tensor.name, {}, {}, {rows, 0}});
      qkv.parts.push_back({i, 0, 0, tensor.rows});
      rows += tensor.rows;
      continue;
    }
    std::int64_t rows = tensor.rows, columns = tensor.columns, row = 0, column = 0;
    if (kind == "left" || kind == "right") {
      // Each box of a rank gives to both halves.
      const bool by_columns = tensor.cut != Cut::kColumns;
      std::int64_t& extent = by_columns ? columns : rows;
      (by_columns ? column : row) = right ? extent / 2 : 0;
      extent = right ? extent - extent / 2 : extent / 2;
    }
    wanted.push_back(
        {{tensor.name, {rows, columns}, {{tensor.name, {row, column}, {rows, columns}}}},
         tensor.dtype,
         {{i, row, column, rows}}});
  }
  return wanted;
}

/// For SubscriberOptions.
inline Layout layout_of(const std::string& kind) {
  Layout layout;
  if (kind == "whole") return layout;
  for (WantedTensor& tensor : wanted_by(kind)) layout.push_back(std::move(tensor.layout));
  return layout;
}

inline std::uint64_t wanted_bytes(const std::string& kind) {
  std::uint64_t sum = 0;
  for (const WantedTensor& tensor : wanted_by(kind)) {
    sum += static_cast<std::uint64_t>(tensor.layout.shape[0] * tensor.layout.shape[1]) *
           dtype_size(tensor.dtype);
  }
  return sum;
}

/// What of an image differs from version `number`; empty where nothing does.
inline std::string difference(const PolicyImage& image, const std::vector<WantedTensor>& wanted,
                              std::uint64_t number) {
  if (image.tensors().size() != wanted.size()) {
    return std::to_string(image.tensors().size()) + " tensors instead of " +
           std::to_string(wanted.size());
  }
  for (const WantedTensor& tensor : wanted) {
    const PlacedTensor* placed = image.find(tensor.layout.name);
    if (placed == nullptr) return tensor.layout.name + " is missing";
    if (placed->info.shape != tensor.layout.shape || placed->info.dtype != tensor.dtype ||
        placed->info.is_box()) {
      return tensor.layout.name + " is of another shape or element type";
    }
    const std::size_t size = dtype_size(tensor.dtype);
    const std::int64_t columns = tensor.layout.shape[1];
    std::vector<std::byte> expected(static_cast<std::size_t>(columns) * size);
    const auto* at = static_cast<const std::byte*>(placed->data);
    for (const WantedTensor::Part& part : tensor.parts) {
      for (std::int64_t row = 0; row < part.rows; ++row, at += expected.size()) {
        fill_row(expected.data(), size, columns, number, part.tensor, part.row + row, part.column);
        if (std::memcmp(at, expected.data(), expected.size()) != 0) {
          return tensor.layout.name + " differs in row " + std::to_string(row) +
                 " of what comes from " + sharded_tensors()[part.tensor].name;
        }
      }
    }
  }
  return {};
}

}  // namespace weightcast::test
