// Random sharded policies with their bytes, and random layouts of them, for tests of plans.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "plan/manifest.hpp"

namespace weightcast::plan {

using Numbers = std::vector<std::int64_t>;

/// Calls `look(index)` for each element of an array, in row-major order.
template <class Look>
void each_index(const Numbers& shape, Look&& look) {
  Numbers index(shape.size(), 0);
  for (const std::int64_t d : shape) {
    if (d == 0) return;
  }
  for (;;) {
    look(std::as_const(index));
    std::size_t d = shape.size();
    while (d > 0 && ++index[d - 1] == shape[d - 1]) index[--d] = 0;
    if (d == 0) return;
  }
}

/// Where an element lies in a row-major array, in elements.
inline std::size_t place_of(const Numbers& index, const Numbers& shape) {
  std::size_t place = 0;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    place = place * static_cast<std::size_t>(shape[d]) + static_cast<std::size_t>(index[d]);
  }
  return place;
}

inline Numbers sum(const Numbers& x, const Numbers& y) {
  Numbers out(x);
  for (std::size_t d = 0; d < y.size(); ++d) out[d] += y[d];
  return out;
}

struct WholeTensor {
  TensorInfo info;  ///< no box
  std::vector<std::byte> bytes;
};

struct RandomPolicy {
  std::vector<WholeTensor> tensors;
  Manifest manifest;
  std::vector<std::vector<std::byte>> payloads;  ///< by share

  const WholeTensor& named(const std::string& name) const {
    for (const WholeTensor& tensor : tensors) {
      const auto& aliases = tensor.info.aliases;
      if (tensor.info.name == name) return tensor;
      if (std::find(aliases.begin(), aliases.end(), name) != aliases.end()) return tensor;
    }
    std::abort();
  }
};

class PolicyMaker {
 public:
  explicit PolicyMaker(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t below(std::uint64_t n) { return engine_() % n; }

  /// @param sharded whether some tensors are boxes; else all are whole
  RandomPolicy policy(bool sharded) {
    RandomPolicy out;
    const std::size_t world = 1 + below(5);
    out.manifest.shares.resize(world);
    for (std::size_t rank = 0; rank < world; ++rank) {
      out.manifest.shares[rank].rank = static_cast<std::uint32_t>(rank);
    }
    const std::size_t count = 1 + below(6);
    for (std::size_t i = 0; i < count; ++i) out.tensors.push_back(tensor(i));
    for (const WholeTensor& tensor : out.tensors) {
      if (sharded && !tensor.info.shape.empty() && below(4) > 0) {
        shard(tensor.info, out.manifest);
      } else {
        add(out.manifest.shares[below(world)], tensor.info);
      }
    }
    for (Share& share : out.manifest.shares) out.payloads.push_back(fill(share, out));
    return out;
  }

  /// Every element once, with the pieces' own order; some tensors of it may be empty.
  Layout layout(const RandomPolicy& policy) {
    Layout out;
    const std::size_t count = 1 + below(5);
    for (std::size_t i = 0; i < count; ++i) {
      const TensorInfo& info = policy.tensors[below(policy.tensors.size())].info;
      LayoutTensor wanted;
      switch (info.shape.empty() ? 0 : below(4)) {
        case 0:
          wanted = as_it_is(info);
          break;
        case 1:
          wanted = slice(info);
          break;
        case 2:
          wanted = turned(info);
          break;
        default:
          wanted = fused(policy, info);
          break;
      }
      wanted.name = "w" + std::to_string(i);
      out.push_back(std::move(wanted));
    }
    return out;
  }

  /// Boxes that fill `shape`, by cutting it `cuts` times where chance wills; some may be empty.
  std::vector<std::pair<Numbers, Numbers>> tiles(const Numbers& shape, std::size_t cuts) {
    std::vector<std::pair<Numbers, Numbers>> boxes{{Numbers(shape.size(), 0), shape}};
    for (; cuts > 0; --cuts) {
      const std::size_t i = below(boxes.size());
      const std::size_t d = below(shape.size());
      auto rest = boxes[i];
      const auto at =
          static_cast<std::int64_t>(below(static_cast<std::uint64_t>(rest.second[d]) + 1));
      boxes[i].second[d] = at;
      rest.first[d] += at;
      rest.second[d] -= at;
      boxes.push_back(std::move(rest));
    }
    return boxes;
  }

 private:
  WholeTensor tensor(std::size_t i) {
    WholeTensor out;
    out.info.name = "t" + std::to_string(i);
    if (below(3) == 0) out.info.aliases = {"a" + std::to_string(i), "b" + std::to_string(i)};
    // Few kinds, so that some can be fused.
    const DType dtypes[] = {DType::kF64, DType::kF32, DType::kF32, DType::kBF16, DType::kU8};
    out.info.dtype = dtypes[below(std::size(dtypes))];
    const std::uint64_t dims = below(6);
    const std::uint64_t most[] = {1, 600, 30, 9, 6, 4};
    for (std::uint64_t d = 0; d < dims; ++d) {
      out.info.shape.push_back(
          static_cast<std::int64_t>(below(20) == 0 ? 0 : 1 + below(most[dims])));
    }
    out.info.buffer = below(4) == 0;
    out.bytes.resize(out.info.bytes());
    for (std::byte& b : out.bytes) b = static_cast<std::byte>(engine_());
    return out;
  }

  // By rows, by columns, as a 2-d grid, or cut anywhere; each box on one rank or more.
  void shard(const TensorInfo& info, Manifest& manifest) {
    const std::size_t world = manifest.shares.size();
    const std::size_t dims = info.shape.size();
    const std::size_t kind = below(4);
    std::vector<std::pair<Numbers, Numbers>> boxes;
    if (kind == 3 || dims < 2) {
      boxes = tiles(info.shape, below(world));
    } else if (kind < 2) {
      boxes = cut_along(Numbers(dims, 0), info.shape, kind == 0 ? 0 : dims - 1, 1 + below(world));
    } else {
      const std::size_t rows = 1 + below(world), columns = 1 + below(world / rows);
      for (const auto& [origin, shape] : cut_along(Numbers(dims, 0), info.shape, 0, rows)) {
        for (auto& box : cut_along(origin, shape, dims - 1, columns))
          boxes.push_back(std::move(box));
      }
    }
    std::vector<std::size_t> ranks(world);
    for (std::size_t i = 0; i < world; ++i) ranks[i] = i;
    std::shuffle(ranks.begin(), ranks.end(), engine_);
    for (std::size_t i = 0; i < world; ++i) {
      if (i >= boxes.size() && below(2) == 0) continue;
      TensorInfo box = info;
      box.global_shape = info.shape;
      std::tie(box.origin, box.shape) = i < boxes.size() ? boxes[i] : boxes[below(boxes.size())];
      add(manifest.shares[ranks[i]], box);
    }
  }

  std::vector<std::pair<Numbers, Numbers>> cut_along(const Numbers& origin, const Numbers& shape,
                                                     std::size_t d, std::size_t parts) {
    Numbers cuts{0, shape[d]};
    while (cuts.size() <= parts) {
      cuts.push_back(static_cast<std::int64_t>(below(static_cast<std::uint64_t>(shape[d]) + 1)));
    }
    std::sort(cuts.begin(), cuts.end());
    std::vector<std::pair<Numbers, Numbers>> boxes;
    for (std::size_t i = 1; i < cuts.size(); ++i) {
      boxes.emplace_back(origin, shape);
      boxes.back().first[d] += cuts[i - 1];
      boxes.back().second[d] = cuts[i] - cuts[i - 1];
    }
    return boxes;
  }

  void add(Share& share, const TensorInfo& info) {
    // Now and then more room than alignment takes.
    const std::uint64_t room = kAlignment * (below(8) == 0 ? below(4) : 0);
    const std::uint64_t offset =
        (share.payload_bytes + room + kAlignment - 1) / kAlignment * kAlignment;
    share.entries.push_back({info, offset, {}});
    share.payload_bytes = offset + info.bytes();
  }

  // The share's bytes, each entry's taken element by element; what is between them is random.
  std::vector<std::byte> fill(Share& share, const RandomPolicy& policy) {
    std::vector<std::byte> payload(share.payload_bytes);
    for (std::byte& b : payload) b = static_cast<std::byte>(engine_());
    for (const ShareEntry& entry : share.entries) {
      const WholeTensor& whole = policy.named(entry.info.name);
      const std::size_t element = dtype_size(entry.info.dtype);
      std::size_t to = entry.offset;
      each_index(entry.info.shape, [&](const Numbers& index) {
        const std::size_t from = place_of(sum(index, entry.info.origin), whole.info.shape);
        std::memcpy(&payload[to], &whole.bytes[from * element], element);
        to += element;
      });
    }
    std::shuffle(share.entries.begin(), share.entries.end(), engine_);
    return payload;
  }

  std::string a_name(const TensorInfo& info) {
    return info.aliases.empty() || below(2) == 0 ? info.name : info.aliases.back();
  }

  LayoutTensor as_it_is(const TensorInfo& info) {
    return {"", info.shape, {LayoutPiece{a_name(info)}}};
  }

  Numbers corner(const Numbers& shape) {
    Numbers out;
    for (const std::int64_t d : shape) {
      out.push_back(static_cast<std::int64_t>(below(static_cast<std::uint64_t>(d) + 1)));
    }
    return out;
  }

  // A box of it, or all from some element on.
  LayoutTensor slice(const TensorInfo& info) {
    LayoutPiece piece{a_name(info)};
    piece.source_origin = corner(info.shape);
    Numbers shape = info.shape;
    for (std::size_t d = 0; d < shape.size(); ++d) shape[d] -= piece.source_origin[d];
    if (below(2) == 0) {
      shape = corner(shape);
      piece.shape = shape;
    }
    return {"", shape, {std::move(piece)}};
  }

  // The two parts of it, the other way round.
  LayoutTensor turned(const TensorInfo& info) {
    const std::size_t d = below(info.shape.size());
    const auto at = static_cast<std::int64_t>(below(static_cast<std::uint64_t>(info.shape[d]) + 1));
    LayoutPiece first{a_name(info)}, second{a_name(info)};
    first.shape = second.shape = info.shape;
    first.origin.assign(info.shape.size(), 0);
    second.source_origin = first.origin;
    first.shape[d] = at;
    first.origin[d] = info.shape[d] - at;
    second.shape[d] = info.shape[d] - at;
    second.source_origin[d] = at;
    return {"", info.shape, {std::move(first), std::move(second)}};
  }

  // Boxes of several tensors side by side, as q, k and v are.
  LayoutTensor fused(const RandomPolicy& policy, const TensorInfo& info) {
    const std::size_t d = below(info.shape.size());
    std::vector<const TensorInfo*> parts;
    Numbers shape = info.shape;
    for (std::size_t tries = 1 + below(8); parts.empty() || tries > 0; --tries) {
      const TensorInfo* part =
          parts.empty() ? &info : &policy.tensors[below(policy.tensors.size())].info;
      if (part->dtype != info.dtype || part->shape.size() != shape.size()) continue;
      for (std::size_t e = 0; e < shape.size(); ++e) shape[e] = std::min(shape[e], part->shape[e]);
      parts.push_back(part);
    }
    LayoutTensor out{"", shape, {}};
    out.shape[d] = 0;
    for (const TensorInfo* part : parts) {
      LayoutPiece piece{a_name(*part)};
      piece.shape = shape;
      piece.shape[d] =
          static_cast<std::int64_t>(below(static_cast<std::uint64_t>(part->shape[d]) + 1));
      Numbers room = part->shape;
      for (std::size_t e = 0; e < room.size(); ++e) room[e] -= piece.shape[e];
      piece.source_origin = corner(room);
      piece.origin.assign(shape.size(), 0);
      piece.origin[d] = out.shape[d];
      out.shape[d] += piece.shape[d];
      out.pieces.push_back(std::move(piece));
    }
    return out;
  }

  std::mt19937_64 engine_;
};

}  // namespace weightcast::plan
