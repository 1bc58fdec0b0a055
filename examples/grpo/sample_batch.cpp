#include "sample_batch.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "arithmetic.hpp"

namespace grpo {
namespace {

constexpr std::uint64_t kMagic = 0x316d6173'6f707267;  // "grposam1"
constexpr std::uint32_t kMaxCount = 1U << 16;
constexpr std::size_t kMaxTokens = std::size_t{1} << 22;

struct Header {
  std::uint64_t magic = kMagic;
  std::uint64_t run = 0;
  std::uint64_t number = 0;
  std::uint32_t worker = 0;
  std::uint32_t groups = 0;
  std::uint32_t group_size = 0;
  std::uint32_t prompt_length = 0;
  std::uint32_t completion_length = 0;
  std::uint32_t reserved = 0;
};

// Visits the arrays of a batch in wire order with the number of elements each must have.
template <class Batch, class Visitor>
void for_each_array(Batch& batch, Visitor&& visit) {
  visit(batch.log_probs, batch.samples() * batch.completion_length);
  visit(batch.rewards, batch.samples());
  visit(batch.prompts, std::size_t{batch.groups} * batch.prompt_length);
  visit(batch.completions, batch.samples() * batch.completion_length);
}

template <class Array>
std::size_t bytes_of(const Array& array, std::size_t elements) {
  (void)array;
  return elements * sizeof(typename Array::value_type);
}

std::size_t wire_size(const SampleBatch& batch) {
  std::size_t total = sizeof(Header);
  for_each_array(batch, [&](const auto& array, std::size_t elements) {
    total += bytes_of(array, elements);
  });
  return total;
}

bool are_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

bool are_tokens(const std::vector<std::uint8_t>& values) {
  return std::all_of(values.begin(), values.end(),
                     [](std::uint8_t value) { return value < Arithmetic::kVocabulary; });
}

}  // namespace

std::size_t SampleBatch::sampled_tokens() const {
  std::size_t total = 0;
  for (std::size_t sample = 0; sample < samples(); ++sample) {
    const auto begin =
        completions.begin() + static_cast<std::ptrdiff_t>(sample * completion_length);
    const auto length = static_cast<std::ptrdiff_t>(completion_length);
    const auto end = std::find(begin, begin + length, Arithmetic::kEnd);
    total += static_cast<std::size_t>(std::min(end - begin + 1, length));
  }
  return total;
}

std::vector<std::byte> encode(const SampleBatch& batch) {
  const Header header{.run = batch.tag.run,
                      .number = batch.tag.number,
                      .worker = batch.worker,
                      .groups = batch.groups,
                      .group_size = batch.group_size,
                      .prompt_length = batch.prompt_length,
                      .completion_length = batch.completion_length};
  std::vector<std::byte> bytes(wire_size(batch));
  std::memcpy(bytes.data(), &header, sizeof(Header));
  std::size_t offset = sizeof(Header);
  for_each_array(batch, [&](const auto& array, std::size_t elements) {
    const std::size_t size = bytes_of(array, elements);
    if (size > 0) std::memcpy(bytes.data() + offset, array.data(), size);
    offset += size;
  });
  return bytes;
}

std::optional<SampleBatch> decode(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof(Header)) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (header.magic != kMagic || header.reserved != 0) return std::nullopt;
  for (const std::uint32_t count :
       {header.groups, header.group_size, header.prompt_length, header.completion_length}) {
    if (count == 0 || count > kMaxCount) return std::nullopt;
  }
  SampleBatch batch;
  batch.tag = {header.run, header.number};
  batch.worker = header.worker;
  batch.groups = header.groups;
  batch.group_size = header.group_size;
  batch.prompt_length = header.prompt_length;
  batch.completion_length = header.completion_length;
  // The product of three counts fits into 48 bits.
  if (batch.samples() * batch.completion_length > kMaxTokens ||
      std::size_t{batch.groups} * batch.prompt_length > kMaxTokens) {
    return std::nullopt;
  }
  if (bytes.size() != wire_size(batch)) return std::nullopt;

  std::size_t offset = sizeof(Header);
  for_each_array(batch, [&](auto& array, std::size_t elements) {
    const std::size_t size = bytes_of(array, elements);
    array.resize(elements);
    if (size > 0) std::memcpy(array.data(), bytes.data() + offset, size);
    offset += size;
  });
  if (!are_finite(batch.log_probs) || !are_finite(batch.rewards) || !are_tokens(batch.prompts) ||
      !are_tokens(batch.completions)) {
    return std::nullopt;
  }
  return batch;
}

}  // namespace grpo
