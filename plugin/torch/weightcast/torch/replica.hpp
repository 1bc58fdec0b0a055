// One copy of an engine's module, and how a version's memory becomes its tensors'.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <weightcast/status.hpp>
#include <weightcast/subscriber.hpp>
#include <weightcast/torch/device.hpp>
#include <weightcast/torch/dtype.hpp>
#include <weightcast/torch/tensor_list.hpp>
#include <weightcast/torch/tensor_source.hpp>
#include <weightcast/types.hpp>

namespace weightcast::detail {

/// Holds an image for the storages over its memory. One for all of them: its use count tells how
/// many still live.
struct ImageKeeper {
  std::shared_ptr<PolicyImage> image;
  int device = -1;  ///< whose memory the image is
  std::atomic<bool> outlives_lease{false};

  ImageKeeper(std::shared_ptr<PolicyImage> kept, int number) : image(std::move(kept)), device(number) {}
  ImageKeeper(const ImageKeeper&) = delete;
  ImageKeeper& operator=(const ImageKeeper&) = delete;
  /// Work that reads tensors which outlived their lease is not told of: all of the device's ends.
  ~ImageKeeper() {
    if (device >= 0 && outlives_lease) synchronize_device(device);
  }
};

/// A tensor over memory of the image, which it keeps. Copies nothing.
inline at::Tensor tensor_over(const PlacedTensor& placed, const std::shared_ptr<ImageKeeper>& keeper) {
  auto context = std::make_unique<std::shared_ptr<ImageKeeper>>(keeper);
  auto maker = at::for_blob(placed.data, placed.info.shape);
  maker.context(context.get(), [](void* c) { delete static_cast<std::shared_ptr<ImageKeeper>*>(c); })
      .options(at::TensorOptions(torch_device(placed.device)).dtype(scalar_type_of(placed.info.dtype)))
      .target_device(torch_device(placed.device));
  (void)context.release();  // the maker owns it from context() on
  return maker.make_tensor();
}

/// The tensors of one replica by name.
///
/// Thread safety: none; ReplicaPool sees to it that nobody computes with a replica while it changes.
class Replica {
 public:
  /// @throw Error (kInvalid) for a replica without tensors or with one that cannot be placed
  Replica(NamedTensorLister lister, const NameFilter* filter) : lister_(std::move(lister)), filter_(filter) {
    const std::vector<NamedTensor> tensors = wanted();
    if (tensors.empty()) {
      throw Error(Status(Code::kInvalid, "a replica lists no tensors to follow: expected parameters or buffers "
                                         "(a frozen jit::Module has none: give the module as it was before)"));
    }
    for (const auto& t : tensors) {
      if (Status s = check_tensor(t, true); !s) throw Error(s);
      const int device = device_number(t.tensor.device()).value_or(-1);
      if (&t == &tensors.front()) device_ = device;
      if (device != device_) {
        throw Error(Status(Code::kInvalid, "tensor '" + t.name + "' is on " + t.tensor.device().str() + ", '" +
                                               tensors.front().name + "' on " +
                                               tensors.front().tensor.device().str() +
                                               ": expected a replica on one device, or several engines"));
      }
    }
  }

  /// Where its tensors were when it was given: -1 for host memory, else CUDA's ordinal.
  int device() const noexcept { return device_; }

  /// What the module lists now and the filter lets through.
  std::vector<NamedTensor> wanted() const {
    std::vector<NamedTensor> all;
    lister_(all);
    std::erase_if(all, [this](const NamedTensor& t) { return !filter_->wants(t.name); });
    return all;
  }

  /// Whether the version has everything wanted, in the element types and shapes wanted.
  /// @return kNotFound or kMismatch, which name the tensor and both sides
  Status check(const Version& version, const std::vector<const TensorInfo*>& infos) const {
    std::unordered_map<std::string_view, const TensorInfo*> by_name;
    by_name.reserve(infos.size());
    for (const TensorInfo* info : infos) {
      by_name.emplace(info->name, info);
      for (const auto& alias : info->aliases) by_name.emplace(alias, info);
    }
    std::unordered_map<const void*, std::pair<const TensorInfo*, std::string>> tied;
    for (const NamedTensor& t : wanted()) {
      if (Status s = check_tensor(t, true); !s) return s;
      const auto shape = shape_of(t.tensor);
      const std::string here =
          std::string(dtype_name(*dtype_of(t.tensor.scalar_type()))) + " " + shape_text(shape);
      const auto found = by_name.find(t.name);
      if (found == by_name.end()) {
        return {Code::kNotFound, "the replica has a tensor '" + t.name + "' (" + here + ") that version " +
                                     to_string(version) +
                                     " lacks: publish it (the trainer's include or extra_tensors), or leave it out "
                                     "of FollowerOptions::include"};
      }
      const TensorInfo& info = *found->second;
      const std::string there = std::string(dtype_name(info.dtype)) + " " + shape_text(info.shape);
      if (info.dtype != *dtype_of(t.tensor.scalar_type())) {
        return {Code::kMismatch, "tensor '" + t.name + "': expected " + here + " as in the replica, version " +
                                     to_string(version) + " has " + there +
                                     ": convert the replicas with weightcast::cast_floating(module, type) (module->to() "
                                     "converts counters too), or set the trainer's AttachOptions::dtype"};
      }
      if (!std::equal(shape.begin(), shape.end(), info.shape.begin(), info.shape.end())) {
        return {Code::kMismatch, "tensor '" + t.name + "': expected " + here + " as in the replica, version " +
                                     to_string(version) + " has " + there +
                                     ": build the replicas with the trainer's hyperparameters"};
      }
      const auto [first, fresh] =
          tied.emplace(t.tensor.unsafeGetTensorImpl(), std::pair(&info, t.name));
      if (!fresh && first->second.first != &info) {
        return {Code::kMismatch, "tensors '" + first->second.second + "' and '" + t.name +
                                     "' are one in the replica and two in version " + to_string(version) +
                                     ": tie them in the trainer too, or in neither"};
      }
    }
    return {};
  }

  /// Gives every tensor the image's memory, in place, so that all who share the tensor see it.
  /// Precondition: check() passed for the image's tensors.
  void install(const std::shared_ptr<ImageKeeper>& keeper) {
    std::unordered_map<const PlacedTensor*, at::Tensor> made;
    for (NamedTensor& t : wanted()) {
      const PlacedTensor* placed = keeper->image->find(t.name);
      if (placed == nullptr) {
        throw Error(Status(Code::kInternal, "image " + to_string(keeper->image->version()) + " lacks '" + t.name + "'"));
      }
      set_data_of(t.tensor, [&] {
        if (t.tensor.is_inference()) return tensor_over(*placed, keeper);
        at::Tensor& one = made[placed];  // tied names share a storage afterwards
        if (!one.defined()) one = tensor_over(*placed, keeper);
        return one;
      });
    }
    shapes_.clear();
  }

  /// Lets go of the image: tensors are empty until the next install(), so that a use of the module
  /// outside of a lease fails instead of reading what is no longer a version.
  void clear() noexcept {
    try {
      for (NamedTensor& t : wanted()) {
        const auto shape = shape_of(t.tensor);
        const c10::ScalarType type = t.tensor.scalar_type();
        shapes_.emplace(t.tensor.unsafeGetTensorImpl(), Cleared{t.tensor, shape});
        set_data_of(t.tensor, [&] {
          const c10::Device device = torch_device(device_);
          return at::for_blob(nullptr, {0})
              .options(at::TensorOptions(device).dtype(type))
              .target_device(device)
              .make_tensor();
        });
      }
    } catch (const std::exception&) {
      // The tensors left as they are keep the image's memory, nothing worse.
    }
  }

 private:
  struct Cleared {
    at::Tensor tensor;  // so that the key is not reused
    std::vector<std::int64_t> shape;
  };

  template <class Make>
  static void set_data_of(at::Tensor& tensor, const Make& make) {
    // Inference tensors stay such, and others stay without, whatever this thread's mode is.
    const c10::InferenceMode mode(tensor.is_inference());
    const at::Tensor data = make();
    tensor.set_data(data);
  }

  std::vector<std::int64_t> shape_of(const at::Tensor& tensor) const {
    const auto cleared = shapes_.find(tensor.unsafeGetTensorImpl());
    if (cleared != shapes_.end()) return cleared->second.shape;
    return tensor.sizes().vec();
  }

  NamedTensorLister lister_;
  const NameFilter* filter_;
  int device_ = -1;
  std::unordered_map<const void*, Cleared> shapes_;
};

}  // namespace weightcast::detail
