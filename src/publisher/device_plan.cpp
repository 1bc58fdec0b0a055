#include "publisher/device_plan.hpp"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>

#include "codec/convert.hpp"
#include "plan/manifest.hpp"

namespace weightcast::publisher {
namespace {

constexpr std::uint64_t align_up(std::uint64_t bytes) noexcept {
  return (bytes + plan::kAlignment - 1) / plan::kAlignment * plan::kAlignment;
}

class Cutter {
 public:
  Cutter(std::span<const std::int64_t> shape, std::span<const std::int64_t> strides,
         std::uint64_t to_size, DevicePlan& plan)
      : shape_(shape), strides_(strides), to_size_(to_size), plan_(plan) {}

  /// Elements [first, first + count) of the row-major order of dimensions `dim` and on.
  void cut(std::size_t dim, std::int64_t from, std::uint64_t first, std::uint64_t count) {
    if (count == 0) return;
    if (dim == shape_.size()) return add(dim, 0, from, 1);
    std::uint64_t row = 1;
    for (std::size_t d = dim + 1; d < shape_.size(); ++d) row *= std::uint64_t(shape_[d]);
    from += std::int64_t(first / row) * strides_[dim];
    first %= row;
    if (first != 0) {
      const std::uint64_t head = std::min(count, row - first);
      cut(dim + 1, from, first, head);
      from += strides_[dim];
      count -= head;
    }
    const std::uint64_t rows = count / row;
    if (rows != 0) add(dim, std::int64_t(rows), from, rows * row);
    cut(dim + 1, from + std::int64_t(rows) * strides_[dim], 0, count % row);
  }

 private:
  void add(std::size_t dim, std::int64_t rows, std::int64_t from, std::uint64_t elements) {
    GatherBox box;
    box.to = done_ * to_size_;
    box.from = from;
    box.elements = elements;
    box.first_dim = std::uint32_t(plan_.sizes.size());
    box.dims = std::uint32_t(shape_.size() - dim);
    for (std::size_t d = dim; d < shape_.size(); ++d) {
      plan_.sizes.push_back(d == dim ? rows : shape_[d]);
      plan_.strides.push_back(strides_[d]);
    }
    plan_.boxes.push_back(box);
    done_ += elements;
  }

  std::span<const std::int64_t> shape_;
  std::span<const std::int64_t> strides_;
  std::uint64_t to_size_;
  std::uint64_t done_ = 0;
  DevicePlan& plan_;
};

class Planner {
 public:
  Planner(const CaptureRequest& request, bool payload_on_device, std::uint64_t chunk_bytes,
          std::uint64_t other_chunk_bytes)
      : request_(request), payload_on_device_(payload_on_device),
        chunk_bytes_(chunk_bytes), other_chunk_bytes_(other_chunk_bytes) {}

  DevicePlan make() {
    const auto& tensors = request_.list.tensors;
    const auto& items = request_.layout.items;
    plan_.ways.assign(tensors.size(), Way::kNone);
    plan_.scratch_at.assign(tensors.size(), 0);
    plan_.sums = std::uint32_t(items.size()) + 1;

    std::vector<std::uint32_t> order(items.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
      return items[a].offset < items[b].offset;
    });
    for (const std::uint32_t i : order) {
      add_whole(items[i].tensor, i, items[i].offset);
      add_parts(items[i].tensor, i, items[i].offset);
    }
    end_chunk();
    plan_.own_wholes = std::uint32_t(plan_.wholes.size());
    plan_.own_chunks = std::uint32_t(plan_.chunks.size());

    ours_ = false;
    chunk_bytes_ = other_chunk_bytes_;
    std::vector<bool> is_item(tensors.size(), false);
    for (const auto& item : items) is_item[item.tensor] = true;
    std::uint64_t offset = 0;
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
      if (is_item[i] || !is_compared(request_.published[i])) continue;
      add_whole(i, plan_.sums - 1, 0);
      if (plan_.ways[i] != Way::kGather) continue;
      add_parts(i, plan_.sums - 1, offset);
      offset = align_up(offset + request_.published[i].bytes());
    }
    end_chunk();
    return std::move(plan_);
  }

 private:
  Way way_of(std::uint32_t tensor) const {
    const TensorView& view = request_.list.tensors[tensor];
    const TensorInfo& published = request_.published[tensor];
    if (published.bytes() == 0) return Way::kNone;
    if (view.device < 0) return Way::kHost;
    if (view.info.buffer || published.buffer) return Way::kSnapshot;
    return is_plain(tensor) ? Way::kDirect : Way::kGather;
  }

  bool is_copied_by_digest(Way way) const {
    return way == Way::kDirect && ours_ && payload_on_device_;
  }

  bool is_plain(std::uint32_t tensor) const {
    const TensorView& view = request_.list.tensors[tensor];
    return view.info.dtype == request_.published[tensor].dtype && codec::is_contiguous(view);
  }

  DevicePart part_of(std::uint32_t tensor, std::uint32_t sum, std::uint64_t begin,
                     std::uint64_t end) const {
    DevicePart part;
    part.tensor = tensor;
    part.sum = sum;
    part.way = plan_.ways[tensor];
    part.begin = begin;
    part.end = end;
    return part;
  }

  void add_whole(std::uint32_t tensor, std::uint32_t sum, std::uint64_t offset) {
    const Way way = plan_.ways[tensor] = way_of(tensor);
    const std::uint64_t bytes = request_.published[tensor].bytes();
    DevicePart part = part_of(tensor, sum, 0, bytes);
    if (way == Way::kHost) {
      part.at = offset;
      plan_.scratch_at[tensor] = plan_.host_bytes;
      plan_.host_bytes += align_up(bytes);
      plan_.hosts.push_back(part);
    } else if (way == Way::kSnapshot) {
      plan_.scratch_at[tensor] = plan_.snapshot_bytes;
      plan_.snapshot_bytes += align_up(bytes);
      DevicePart snapshot = part;
      if (!is_plain(tensor)) add_boxes(snapshot);
      plan_.snapshots.push_back(snapshot);
    }
    if (way == Way::kSnapshot || (way == Way::kDirect && !is_copied_by_digest(way))) {
      plan_.wholes.push_back(part);
    }
  }

  /// Cuts a tensor that lies at `offset` of the payload into parts of chunks.
  void add_parts(std::uint32_t tensor, std::uint32_t sum, std::uint64_t offset) {
    const Way way = plan_.ways[tensor];
    if (way == Way::kNone || (way == Way::kHost && !payload_on_device_)) return;
    const std::uint64_t bytes = request_.published[tensor].bytes();
    for (std::uint64_t at = 0; at < bytes;) {
      if (chunk_.parts != 0 && offset + at >= chunk_.offset + chunk_bytes_) end_chunk();
      if (chunk_.parts == 0) {
        chunk_.offset = offset + at;
        chunk_.first_part = std::uint32_t(plan_.parts.size());
      }
      const std::uint64_t room = chunk_.offset + chunk_bytes_ - (offset + at);
      DevicePart part = part_of(tensor, sum, at, at + std::min(bytes - at, room));
      part.at = offset + at - chunk_.offset;
      if (way == Way::kGather) {
        add_boxes(part);
        ++chunk_.gathers;
      } else if (is_copied_by_digest(way)) {
        ++chunk_.directs;
      }
      at = part.end;
      if (ours_) plan_.own_bytes += part.end - part.begin;
      chunk_.bytes = part.at + part.end - part.begin;
      ++chunk_.parts;
      plan_.parts.push_back(part);
    }
  }

  void end_chunk() {
    chunk_.is_ours = ours_;
    if (chunk_.parts != 0) plan_.chunks.push_back(chunk_);
    chunk_ = {};
  }

  void add_boxes(DevicePart& part) {
    const TensorView& view = request_.list.tensors[part.tensor];
    const std::uint64_t size = dtype_size(request_.published[part.tensor].dtype);
    const std::uint64_t first = part.begin / size;
    const std::uint64_t count = (part.end - part.begin) / size;
    part.first_box = std::uint32_t(plan_.boxes.size());
    if (codec::is_contiguous(view)) {
      plan_.boxes.push_back({0, std::int64_t(first), count, 0, 0});
    } else {
      cut_into_boxes(view.info.shape, view.strides, first, count, size, plan_);
    }
    part.boxes = std::uint32_t(plan_.boxes.size()) - part.first_box;
  }

  const CaptureRequest& request_;
  const bool payload_on_device_;
  std::uint64_t chunk_bytes_;
  const std::uint64_t other_chunk_bytes_;
  bool ours_ = true;
  DeviceChunk chunk_;
  DevicePlan plan_;
};

std::string place_name(int device) {
  return device < 0 ? "host memory" : "device " + std::to_string(device);
}

}  // namespace

void cut_into_boxes(std::span<const std::int64_t> shape, std::span<const std::int64_t> strides,
                    std::uint64_t first, std::uint64_t count, std::uint64_t to_size,
                    DevicePlan& plan) {
  Cutter(shape, strides, to_size, plan).cut(0, 0, first, count);
}

Result<int> device_of(const TensorList& list) {
  const TensorView* on_device = nullptr;
  for (const TensorView& tensor : list.tensors) {
    if (tensor.device < 0 || tensor.info.elements() == 0) continue;
    if (on_device == nullptr) on_device = &tensor;
    if (tensor.device == on_device->device) continue;
    return Status(Code::kInvalid,
                  "tensor '" + tensor.info.name + "' is on " + place_name(tensor.device) + ", '" +
                      on_device->info.name + "' on " + place_name(on_device->device) +
                      ": a rank's tensors must be on one device; publish the others as a policy of "
                      "their own");
  }
  if (on_device == nullptr) return -1;
  std::uint64_t host_bytes = 0;
  for (const TensorView& tensor : list.tensors) {
    if (tensor.device >= 0) continue;
    host_bytes += tensor.info.bytes();
    if (tensor.info.bytes() <= kMostHostTensorBytes && host_bytes <= kMostHostBytes) continue;
    return Status(Code::kInvalid,
                  "tensor '" + tensor.info.name + "' (" + std::to_string(tensor.info.bytes()) +
                      " bytes) is in host memory, '" + on_device->info.name + "' on " +
                      place_name(on_device->device) +
                      ": beside a device's tensors those of the host may have at most " +
                      std::to_string(kMostHostTensorBytes) + " bytes each and " +
                      std::to_string(kMostHostBytes) + " in all; move it to the device");
  }
  return on_device->device;
}

DevicePlan make_device_plan(const CaptureRequest& request, bool payload_on_device,
                            std::uint64_t chunk_bytes, std::uint64_t other_chunk_bytes) {
  return Planner(request, payload_on_device, chunk_bytes, other_chunk_bytes).make();
}

}  // namespace weightcast::publisher
