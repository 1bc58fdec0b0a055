#include "gpu_policy.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace bench {
namespace {

constexpr std::uint64_t kChunk = 32u << 20;  // of a tensor, filled from one place of the pattern
constexpr std::uint64_t kPattern = 64u
                                   << 20;  // random words; a version begins anywhere in its half
constexpr std::uint64_t kAlignment = 512;  // as torch's allocator
constexpr std::uint64_t kBounce = 64u << 20;

std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Where in the pattern a chunk of that tensor in that version begins.
std::uint64_t place_of(std::uint64_t version, std::uint64_t tensor, std::uint64_t chunk) {
  return mixed(mixed(mixed(version) + tensor) + chunk) % ((kPattern - kChunk) / 8) * 8;
}

/// The rows of rank `rank`, of `rows`.
std::pair<std::int64_t, std::int64_t> rows_of(std::int64_t rows, std::uint32_t rank,
                                              std::uint32_t world) {
  return {rows * rank / world, rows * (rank + 1) / world};
}

}  // namespace

Shape Shape::of_bytes(std::uint64_t bytes) {
  Shape shape;
  if (bytes == 0) return shape;
  if (bytes < 1'000'000) throw std::runtime_error("a policy has at least 1 MB");
  const double factor = std::min(1.0, std::cbrt(static_cast<double>(bytes) / 16.38e9));
  const auto scaled = [&](std::int64_t dimension, std::int64_t multiple) {
    const double wanted = static_cast<double>(dimension) * factor / static_cast<double>(multiple);
    return std::max<std::int64_t>(1, std::llround(wanted)) * multiple;
  };
  shape.layers = std::max(1, static_cast<int>(36 * factor));
  shape.hidden = scaled(4096, 64);
  shape.inner = 3 * shape.hidden;
  shape.kv = scaled(1024, 16);
  const std::int64_t layer =
      2 * shape.hidden * (shape.hidden + shape.kv) + 3 * shape.hidden * shape.inner;
  const std::int64_t left = static_cast<std::int64_t>(bytes / 2) - shape.layers * layer;
  shape.vocabulary = std::max<std::int64_t>(64, left / (2 * shape.hidden) / 2 * 2);
  return shape;
}

DevicePolicy::DevicePolicy(Device device, const Options& options)
    : device_(device), hasher_(std::move(device)) {
  const Shape& shape = options.shape;
  const auto weight = [&](std::string name, std::vector<std::int64_t> of) {
    add(std::move(name), std::move(of), weightcast::DType::kBF16, false, options);
  };
  weight("model.embed_tokens.weight", {shape.vocabulary, shape.hidden});
  for (int i = 0; i < shape.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    weight(layer + "self_attn.q_proj.weight", {shape.hidden, shape.hidden});
    weight(layer + "self_attn.k_proj.weight", {shape.kv, shape.hidden});
    weight(layer + "self_attn.v_proj.weight", {shape.kv, shape.hidden});
    weight(layer + "self_attn.o_proj.weight", {shape.hidden, shape.hidden});
    weight(layer + "self_attn.q_norm.weight", {shape.head});
    weight(layer + "self_attn.k_norm.weight", {shape.head});
    weight(layer + "mlp.gate_proj.weight", {shape.inner, shape.hidden});
    weight(layer + "mlp.up_proj.weight", {shape.inner, shape.hidden});
    weight(layer + "mlp.down_proj.weight", {shape.hidden, shape.inner});
    weight(layer + "input_layernorm.weight", {shape.hidden});
    weight(layer + "post_attention_layernorm.weight", {shape.hidden});
  }
  weight("model.norm.weight", {shape.hidden});
  weight("lm_head.weight", {shape.vocabulary, shape.hidden});
  if (options.buffers) {
    add("buffers.mean", {257}, weightcast::DType::kF32, true, options);
    add("buffers.odd", {3, 7}, weightcast::DType::kU8, true, options);
    add("buffers.steps", {}, weightcast::DType::kI64, true, options);
  }

  memory_ = Buffer(device_, room_);
  pattern_ = Buffer(device_, kPattern);
  Buffer words(device_, kPattern, Buffer::Kind::kPinned);
  for (std::uint64_t i = 0; i < kPattern / 8; ++i) {
    const std::uint64_t word = mixed(i);
    std::memcpy(words.data() + 8 * i, &word, sizeof word);
  }
  Stream stream(device_);
  const CopyItem item{pattern_.data(), words.data(), kPattern};
  stream.copy({&item, 1});
  stream.await();
}

void DevicePolicy::add(std::string name, std::vector<std::int64_t> shape, weightcast::DType dtype,
                       bool is_buffer, const Options& options) {
  Tensor tensor;
  tensor.info.name = std::move(name);
  tensor.info.dtype = dtype;
  tensor.info.shape = std::move(shape);
  tensor.info.buffer = is_buffer;
  if (options.world > 1 && !is_buffer) {
    auto& info = tensor.info;
    const std::uint64_t row = info.bytes() / static_cast<std::uint64_t>(info.shape[0]);
    info.global_shape = info.shape;
    info.origin.assign(info.shape.size(), 0);
    const auto [begin, end] = rows_of(info.shape[0], options.rank, options.world);
    info.origin[0] = begin;
    info.shape[0] = end - begin;
    tensor.first = static_cast<std::uint64_t>(begin) * row;
  }
  tensor.at = room_;
  room_ += (tensor.info.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  bytes_ += tensor.info.bytes();
  tensors_.push_back(std::move(tensor));
}

void DevicePolicy::become(std::uint64_t version, Stream& stream) {
  items_.clear();
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const Tensor& tensor = tensors_[i];
    const std::uint64_t end = tensor.first + tensor.info.bytes();
    for (std::uint64_t at = tensor.first; at < end;) {
      const std::uint64_t chunk = at / kChunk;
      const std::uint64_t bytes = std::min(end, (chunk + 1) * kChunk) - at;
      items_.push_back({memory_.data() + tensor.at + (at - tensor.first),
                        pattern_.data() + place_of(version, i, chunk) + at % kChunk, bytes});
      at += bytes;
    }
  }
  stream.copy(items_);
}

weightcast::Publisher::Lister DevicePolicy::lister(const Stream& stream) {
  return [this, native = stream.native()](weightcast::TensorList& list) {
    list.stream = native;
    for (const Tensor& tensor : tensors_) {
      list.tensors.push_back({tensor.info, memory_.data() + tensor.at, {}, device_.index});
    }
    return weightcast::Status::ok();
  };
}

std::string DevicePolicy::hash(Stream& stream) {
  std::vector<HashedBytes> parts;
  for (const Tensor& tensor : tensors_) {
    parts.push_back({tensor.info.name, memory_.data() + tensor.at, tensor.info.bytes()});
  }
  return hasher_.hash(std::move(parts), stream);
}

Hasher::Hasher(Device device)
    : device_(std::move(device)), bounce_(device_, 2 * kBounce, Buffer::Kind::kPinned) {}

std::string Hasher::hash(std::vector<HashedBytes> parts, Stream& stream) {
  std::sort(parts.begin(), parts.end(),
            [](const HashedBytes& a, const HashedBytes& b) { return a.name < b.name; });
  // Small parts share a bounce buffer, large ones take several; one is hashed while the other
  // fills.
  std::vector<std::vector<CopyItem>> fills(1);
  std::vector<std::uint64_t> filled(1, 0);
  for (const HashedBytes& part : parts) {
    for (std::uint64_t at = 0; at < part.bytes;) {
      if (filled.back() == kBounce) {
        fills.emplace_back();
        filled.push_back(0);
      }
      std::byte* half = bounce_.data() + (fills.size() - 1) % 2 * kBounce;
      const std::uint64_t bytes = std::min(part.bytes - at, kBounce - filled.back());
      fills.back().push_back(
          {half + filled.back(), static_cast<const std::byte*>(part.data) + at, bytes});
      filled.back() += bytes;
      at += bytes;
    }
  }
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  std::array<Event, 2> ends{Event(device_, false), Event(device_, false)};
  const auto begin = [&](std::size_t fill) {
    stream.copy(fills[fill]);
    ends[fill % 2].record(stream.native());
  };
  begin(0);
  for (std::size_t fill = 0; fill < fills.size(); ++fill) {
    ends[fill % 2].await();
    if (fill + 1 < fills.size()) begin(fill + 1);
    XXH3_128bits_update(&state, bounce_.data() + fill % 2 * kBounce, filled[fill]);
  }
  const auto value = XXH3_128bits_digest(&state);
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(value.high64),
                static_cast<unsigned long long>(value.low64));
  return text;
}

std::vector<std::string> Hasher::hashes(const std::vector<weightcast::TensorInfo>& infos,
                                        const std::vector<const void*>& data, std::uint32_t ranks,
                                        Stream& stream) {
  std::vector<std::string> all;
  for (std::uint32_t rank = 0; rank < ranks; ++rank) {
    std::vector<HashedBytes> parts;
    for (std::size_t i = 0; i < infos.size(); ++i) {
      const auto& info = infos[i];
      const auto* bytes = static_cast<const std::byte*>(data[i]);
      if (ranks == 1 || info.buffer) {
        parts.push_back({info.name, bytes, info.bytes()});
        continue;
      }
      const std::uint64_t row = info.bytes() / static_cast<std::uint64_t>(info.shape[0]);
      const auto [first, last] = rows_of(info.shape[0], rank, ranks);
      parts.push_back({info.name, bytes + static_cast<std::uint64_t>(first) * row,
                       static_cast<std::uint64_t>(last - first) * row});
    }
    all.push_back(hash(std::move(parts), stream));
  }
  return all;
}

}  // namespace bench
