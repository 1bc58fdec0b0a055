// From named tensors to the TensorList that the core captures.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fnmatch.h>

#include <weightcast/status.hpp>
#include <weightcast/torch/dtype.hpp>
#include <weightcast/torch/tensor_source.hpp>
#include <weightcast/types.hpp>

namespace weightcast {

/// Picks tensors by name with shell patterns (fnmatch: `*`, `?`, `[...]`; a `*` passes dots).
struct NameFilter {
  std::vector<std::string> include;  ///< empty: all
  std::vector<std::string> exclude;  ///< goes before `include`

  bool wants(const std::string& name) const {
    const auto matches = [&](const std::string& p) { return fnmatch(p.c_str(), name.c_str(), 0) == 0; };
    for (const auto& p : exclude) {
      if (matches(p)) return false;
    }
    for (const auto& p : include) {
      if (matches(p)) return true;
    }
    return include.empty();
  }

  /// A pattern of `include` that picks none of `tensors` is a slip of the pen.
  Status check(const std::vector<NamedTensor>& tensors) const {
    for (const auto& p : include) {
      bool used = false;
      for (const auto& t : tensors) used = used || fnmatch(p.c_str(), t.name.c_str(), 0) == 0;
      if (!used) {
        return {Code::kInvalid, "include pattern '" + p + "' matches none of the " +
                                    std::to_string(tensors.size()) + " tensors" +
                                    (tensors.empty() ? "" : " (the first is '" + tensors.front().name + "')")};
      }
    }
    return {};
  }
};

namespace detail {

inline std::string shape_text(const std::int64_t* sizes, std::size_t n) {
  std::string text = "[";
  for (std::size_t i = 0; i < n; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(sizes[i]);
  }
  return text + "]";
}
inline std::string shape_text(at::IntArrayRef sizes) { return shape_text(sizes.data(), sizes.size()); }
inline std::string shape_text(const std::vector<std::int64_t>& v) { return shape_text(v.data(), v.size()); }

/// Whether weightcast can read or place such a tensor; the message names it.
/// @param on_devices whether it may lie in a CUDA device's memory
inline Status check_tensor(const NamedTensor& t, bool on_devices = false) {
  const auto refuse = [&](const std::string& what) {
    return Status(Code::kInvalid, "tensor '" + t.name + "' " + what + ", or leave it out with `exclude`");
  };
  if (t.name.empty()) return {Code::kInvalid, "a tensor has no name: every tensor of a policy needs one"};
  if (!t.tensor.defined()) return refuse("is undefined: register it before attaching");
  const at::Tensor& x = t.tensor;
  if (x.device().type() != c10::DeviceType::CPU && !(on_devices && x.is_cuda())) {
    return refuse("is on " + x.device().str() + ", expected cpu" + (on_devices ? " or cuda" : "") +
                  ": move it with .to(torch::kCPU)");
  }
  if (x.layout() != c10::Layout::Strided) {
    return refuse(std::string("is ") + (x.is_sparse() ? "sparse" : "not strided") +
                  ", expected a dense tensor: convert it with .to_dense()");
  }
  if (x.is_quantized() || !dtype_of(x.scalar_type())) {
    return refuse(std::string("has element type ") + c10::toString(x.scalar_type()) +
                  ", expected a floating, integer or boolean one: publish its parts as tensors of such a type");
  }
  if (!x.has_storage()) return refuse("has no storage of its own: publish the tensor that it wraps");
  if (x.is_neg()) return refuse("is a lazily negated view: publish .resolve_neg() of it");
  return {};
}

/// The native handle (cudaStream_t) of the calling thread's current stream on a device. Asked through
/// the guard that torch registers for its device's type, so no header of CUDA's is needed.
inline void* current_stream(c10::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
}

/// Finds further names of a tensor already listed: the same bytes seen in the same way.
class AliasFinder {
 public:
  /// @return the index of the tensor listed before that `t` is another name of, else `index`
  std::size_t find_or_add(const at::Tensor& t, std::size_t index) {
    auto [it, end] = seen_.equal_range(t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl());
    for (; it != end; ++it) {
      const at::Tensor& other = *it->second.tensor;
      if (other.storage_offset() == t.storage_offset() && other.sizes() == t.sizes() &&
          other.strides() == t.strides() && other.scalar_type() == t.scalar_type()) {
        return it->second.index;
      }
    }
    seen_.emplace(t.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl(), Seen{&t, index});
    return index;
  }
  void reserve(std::size_t n) { seen_.reserve(n); }

 private:
  struct Seen {
    const at::Tensor* tensor;
    std::size_t index;
  };
  std::unordered_multimap<const void*, Seen> seen_;
};

/// What a capture holds on to: the storages, and the version counters of what copies read later.
struct CaptureHold {
  std::vector<c10::Storage> storages;
  struct Counter {
    c10::VariableVersion counter;
    std::uint32_t value;
  };
  std::vector<Counter> counters;

  bool unchanged() const noexcept {
    for (const auto& c : counters) {
      if (c.counter.current_version() != c.value) return false;
    }
    return true;
  }
};

}  // namespace detail

/// Lists `tensors` for a capture: tied ones once, with the other names as aliases.
///
/// The list holds the storages, so that load(), to() and set_data() may replace them at any time,
/// and notes the version counters of all but buffers (whose copies end within the publish point).
/// Of tensors on a device the list has the stream that is current for the calling thread: call it,
/// and step, under the same one.
/// Writes that raise no counter (through .data(), or by raw pointer) go unseen, as do all writes to
/// inference tensors.
/// @return kInvalid for a tensor that cannot be published, two different ones of one name, or none
inline Status list_tensors(std::vector<NamedTensor> tensors, const NameFilter& filter, TensorList& out) {
  auto hold = std::make_shared<detail::CaptureHold>();
  hold->storages.reserve(tensors.size());
  hold->counters.reserve(tensors.size());
  out.tensors.clear();
  out.stream = nullptr;
  bool has_stream = false;
  out.tensors.reserve(tensors.size());
  detail::AliasFinder aliases;
  aliases.reserve(tensors.size());
  std::unordered_map<std::string, std::size_t> names;
  names.reserve(tensors.size());
  std::vector<const at::Tensor*> listed;
  listed.reserve(tensors.size());

  for (NamedTensor& t : tensors) {
    if (!filter.wants(t.name)) continue;
    if (Status s = detail::check_tensor(t, true); !s) return s;
    const bool buffer = t.buffer.value_or(!t.tensor.requires_grad());
    const std::size_t index = aliases.find_or_add(t.tensor, out.tensors.size());
    const auto [known, fresh] = names.emplace(t.name, index);
    if (!fresh) {
      if (known->second == index) continue;
      return {Code::kInvalid, "two different tensors are named '" + t.name +
                                  "': names must be unique within a policy, extra tensors included"};
    }
    if (index < out.tensors.size()) {
      TensorInfo& info = out.tensors[index].info;
      info.aliases.push_back(std::move(t.name));
      info.buffer = info.buffer || buffer;
      continue;
    }
    TensorView& view = out.tensors.emplace_back();
    view.info.name = std::move(t.name);
    view.info.dtype = *dtype_of(t.tensor.scalar_type());
    view.info.shape.assign(t.tensor.sizes().begin(), t.tensor.sizes().end());
    view.info.buffer = buffer;
    view.data = t.tensor.const_data_ptr();
    if (const c10::Device device = t.tensor.device(); device.type() != c10::DeviceType::CPU) {
      view.device = device.index();
      // The core refuses tensors of several devices, so any one's stream is that of all.
      if (!has_stream) out.stream = detail::current_stream(device);
      has_stream = true;
    }
    if (!t.tensor.is_contiguous()) {
      view.strides.assign(t.tensor.strides().begin(), t.tensor.strides().end());
    }
    hold->storages.push_back(t.tensor.storage());
    listed.push_back(&t.tensor);
  }
  if (out.tensors.empty()) {
    return {Code::kInvalid, "the policy has no tensors: the source lists " + std::to_string(tensors.size()) +
                                ", and `include` and `exclude` leave none"};
  }
  for (std::size_t i = 0; i < listed.size(); ++i) {
    if (out.tensors[i].info.buffer || listed[i]->is_inference()) continue;
    const c10::VariableVersion& counter = listed[i]->unsafeGetTensorImpl()->version_counter();
    // Only a counter that exists can be read: set_data() leaves a former inference tensor without one.
    if (counter.enabled()) hold->counters.push_back({counter, counter.current_version()});
  }
  out.unchanged = [hold] { return hold->unchanged(); };
  out.keep_alive = std::move(hold);
  return {};
}

}  // namespace weightcast
