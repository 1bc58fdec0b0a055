#include "plan/shares.hpp"

#include <algorithm>
#include <queue>
#include <string>
#include <string_view>
#include <tuple>

#include "plan/boxes.hpp"
#include "plan/describe.hpp"
#include "plan/manifest.hpp"

namespace weightcast::plan {
namespace {

std::uint64_t align_up(std::uint64_t offset) noexcept {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

// FNV-1a, 64 bits. Every field is preceded by its length or has a fixed one, so that two different
// lists never write the same bytes.
class Fingerprint {
 public:
  void number(std::uint64_t value) noexcept {
    for (int i = 0; i < 8; ++i) byte(static_cast<unsigned char>(value >> (8 * i)));
  }
  void text(std::string_view value) noexcept {
    number(value.size());
    for (char c : value) byte(static_cast<unsigned char>(c));
  }
  std::uint64_t value() const noexcept { return hash_; }

 private:
  void byte(unsigned char value) noexcept {
    hash_ ^= value;
    hash_ *= 0x100000001B3u;
  }

  std::uint64_t hash_ = 0xCBF29CE484222325u;
};

}  // namespace

ShareLayout own_share(const std::vector<TensorInfo>& tensors, std::uint32_t rank,
                      std::uint32_t world_size) {
  std::vector<std::uint32_t> owner(tensors.size(), rank);
  std::vector<std::uint32_t> parameters;
  std::uint64_t buffer_bytes = 0;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].is_box()) continue;
    if (tensors[i].buffer) {
      owner[i] = 0;
      buffer_bytes += tensors[i].bytes();
    } else {
      parameters.push_back(i);
    }
  }
  std::sort(parameters.begin(), parameters.end(), [&](std::uint32_t x, std::uint32_t y) {
    const std::size_t bx = tensors[x].bytes(), by = tensors[y].bytes();
    return bx != by ? bx > by : x < y;
  });

  // (bytes so far, number of tensors, rank): the count spreads empty tensors, the rank breaks ties.
  using Load = std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>;
  std::priority_queue<Load, std::vector<Load>, std::greater<>> least;
  for (std::uint32_t r = 0; r < world_size; ++r) least.emplace(r == 0 ? buffer_bytes : 0, 0, r);
  for (const std::uint32_t tensor : parameters) {
    const auto [bytes, count, r] = least.top();
    least.pop();
    owner[tensor] = r;
    least.emplace(bytes + tensors[tensor].bytes(), count + 1, r);
  }

  ShareLayout share;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) {
    if (owner[i] != rank) continue;
    const std::uint64_t offset = align_up(share.payload_bytes);
    share.items.push_back({i, offset});
    share.payload_bytes = offset + tensors[i].bytes();
  }
  return share;
}

std::uint64_t layout_fingerprint(const std::vector<TensorInfo>& tensors) {
  Fingerprint print;
  print.number(tensors.size());
  for (const TensorInfo& info : tensors) {
    print.text(info.name);
    print.number(info.aliases.size());
    for (const std::string& alias : info.aliases) print.text(alias);
    print.number(static_cast<std::uint64_t>(info.dtype));
    const std::vector<std::int64_t>& shape = info.whole_shape();
    print.number(shape.size());
    for (std::int64_t d : shape) print.number(static_cast<std::uint64_t>(d));
    print.number((info.buffer ? 1u : 0u) | (info.is_box() ? 2u : 0u));
  }
  return print.value();
}

Status check_boxes(const std::vector<TensorInfo>& tensors) {
  for (const TensorInfo& info : tensors) {
    const std::string fault = box_fault(info);
    if (fault.empty()) continue;
    return {Code::kInvalid, "tensor " + quoted(info.name) + ": " + fault +
                                "; correct the global shape and origin that the trainer lists"};
  }
  return Status::ok();
}

}  // namespace weightcast::plan
