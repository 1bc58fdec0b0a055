#include "driver/gather_batch.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace weightcast::driver {
namespace {

Status check_types(const GatherItem& item) {
  const bool is_known = dtype_size(item.from_type) != 0 && dtype_size(item.to_type) != 0;
  const bool is_cast = item.from_type != item.to_type;
  if (is_known && (!is_cast ||
                   (dtype_is_floating(item.from_type) && dtype_is_floating(item.to_type)))) {
    return {};
  }
  return {Code::kInvalid, "expected a cast between f64, f32, f16 and bf16, got one from " +
                              std::string(dtype_name(item.from_type)) + " to " +
                              std::string(dtype_name(item.to_type)) +
                              "; publish this tensor as it is"};
}

}  // namespace

Result<GatherEntry> gather_entry(const GatherItem& item) {
  if (Status s = check_types(item); !s) return s;
  GatherEntry entry;
  entry.to = static_cast<unsigned char*>(item.to);
  entry.from = static_cast<const unsigned char*>(item.from);
  entry.elements = item.elements;
  if (item.strides.empty()) return entry;

  std::uint64_t elements = 1;
  for (const std::int64_t size : item.shape) elements *= static_cast<std::uint64_t>(size);
  if (item.strides.size() != item.shape.size() || elements != item.elements) {
    return Status(Code::kInvalid,
                  "expected a shape of " + std::to_string(item.elements) +
                      " elements and a stride for each dimension, got " +
                      std::to_string(item.shape.size()) + " dimensions of " +
                      std::to_string(elements) + " elements and " +
                      std::to_string(item.strides.size()) + " strides");
  }
  if (elements == 0) return entry;
  std::int32_t n = 0;
  for (std::size_t d = 0; d < item.shape.size(); ++d) {
    const std::int64_t size = item.shape[d], stride = item.strides[d];
    if (size == 1) continue;
    if (n > 0 && entry.strides[n - 1] == stride * size) {
      entry.sizes[n - 1] *= size;
      entry.strides[n - 1] = stride;
      continue;
    }
    if (n == kMostDimensions) {
      return Status(Code::kInvalid, "expected at most " + std::to_string(kMostDimensions) +
                                        " dimensions that do not lie together; make this tensor "
                                        "contiguous before it is published");
    }
    entry.sizes[n] = size;
    entry.strides[n] = stride;
    ++n;
  }
  entry.dimensions = n == 1 && entry.strides[0] == 1 ? 0 : n;
  return entry;
}

Status gather_in_batches(
    std::span<const GatherItem> items,
    const std::function<Status(const GatherBatch&, DType to, DType from)>& launch) {
  std::vector<GatherEntry> entries;
  entries.reserve(items.size());
  for (const GatherItem& item : items) {
    auto entry = gather_entry(item);
    if (!entry) return entry.status();
    entries.push_back(*entry);
  }
  GatherBatch batch;
  DType to = DType::kF32, from = DType::kF32;
  const auto flush = [&]() -> Status {
    if (batch.count == 0) return {};
    Status status = launch(batch, to, from);
    batch.count = 0;
    batch.tiles = 0;
    return status;
  };
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (entries[i].elements == 0) continue;
    const bool is_other = items[i].to_type != to || items[i].from_type != from;
    if (is_other || batch.count == GatherBatch::kMost) {
      if (Status s = flush(); !s) return s;
      to = items[i].to_type;
      from = items[i].from_type;
    }
    entries[i].first_tile = batch.tiles;
    batch.tiles += (entries[i].elements + kGatherTile - 1) / kGatherTile;
    batch.entries[batch.count++] = entries[i];
  }
  return flush();
}

}  // namespace weightcast::driver
