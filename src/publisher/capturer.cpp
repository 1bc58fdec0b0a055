#include "publisher/capturer.hpp"

#include <string>
#include <utility>

#include "plan/manifest.hpp"

namespace weightcast::publisher {
namespace {

Status refuse(const TensorView& tensor, const std::string& what) {
  return {Code::kInvalid, "tensor '" + tensor.info.name + "': " + what};
}

// Whether a tensor can be published as `published` at all; the copies cannot fail after this.
Status check_tensor(const TensorView& tensor, const TensorInfo& published) {
  const TensorInfo& info = tensor.info;
  if (info.shape != published.shape) {
    return refuse(tensor, "expected the shape that was planned; publish again with a new plan");
  }
  const bool castable = dtype_is_floating(info.dtype) && dtype_is_floating(published.dtype);
  if (dtype_size(published.dtype) == 0 || (info.dtype != published.dtype && !castable)) {
    return refuse(tensor, "cannot be cast from " + std::string(dtype_name(info.dtype)) + " to " +
                              std::string(dtype_name(published.dtype)) +
                              "; publish it as it is, only floating tensors are cast");
  }
  if (!tensor.strides.empty() && tensor.strides.size() != info.shape.size()) {
    return refuse(tensor, "expected a stride for each of " + std::to_string(info.shape.size()) +
                              " dimensions, got " + std::to_string(tensor.strides.size()));
  }
  if (tensor.data == nullptr && info.elements() != 0) {
    return refuse(tensor, "expected the address of its " + std::to_string(info.bytes()) +
                              " bytes, got null");
  }
  return Status::ok();
}

}  // namespace

bool is_compared(const TensorInfo& published) { return !published.buffer && !published.is_box(); }

Status check_request(const CaptureRequest& request) {
  const auto& tensors = request.list.tensors;
  if (request.published.size() != tensors.size()) {
    return {Code::kInvalid, "expected " + std::to_string(tensors.size()) +
                                " published tensors, one for each tensor of the list, got " +
                                std::to_string(request.published.size())};
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (Status s = check_tensor(tensors[i], request.published[i]); !s) return s;
  }
  for (const auto& item : request.layout.items) {
    if (item.tensor >= tensors.size()) {
      return {Code::kInvalid, "expected a layout of " + std::to_string(tensors.size()) +
                                  " tensors, got tensor number " + std::to_string(item.tensor)};
    }
    const std::uint64_t bytes = request.published[item.tensor].bytes();
    if (item.offset % plan::kAlignment != 0 || item.offset > request.payload.size() ||
        bytes > request.payload.size() - item.offset) {
      return refuse(tensors[item.tensor],
                    "expected " + std::to_string(bytes) + " bytes at a multiple of " +
                        std::to_string(plan::kAlignment) + " inside the slot's " +
                        std::to_string(request.payload.size()) + " bytes, got offset " +
                        std::to_string(item.offset) + "; raise the slot's size");
    }
  }
  return Status::ok();
}

Status check_unchanged(const TensorList& list) noexcept {
  bool unchanged = true;
  if (list.unchanged) {
    try {
      unchanged = list.unchanged();
    } catch (...) {
      unchanged = false;
    }
  }
  if (unchanged) return Status::ok();
  return {Code::kStale,
          "a tensor was written to while it was being copied; wait with fence() before changing the "
          "weights"};
}

void fill_digests(const CaptureRequest& request, std::span<const base::Digest> sums,
                  CaptureResult& result) {
  const std::size_t items = request.layout.items.size();
  result.digests.assign(sums.begin(), sums.begin() + static_cast<std::ptrdiff_t>(items));
  if (!request.whole_policy_digest) return;
  result.policy_digest = sums[items];
  for (std::size_t i = 0; i < items; ++i) {
    if (is_compared(request.published[request.layout.items[i].tensor])) {
      result.policy_digest += sums[i];
    }
  }
}

}  // namespace weightcast::publisher
