// Where a policy's tensors come from: anything that can name them.
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <weightcast/status.hpp>

namespace weightcast {

/// A tensor under the name that the policy knows it by. Shares the tensor, copies nothing.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  /// Whether anything but an optimizer's step may write to it (BatchNorm statistics, normalizers):
  /// it is then copied within the publish point itself. Unset: where it does not require grad.
  std::optional<bool> buffer{};
};

/// Appends the tensors as they are now.
using NamedTensorLister = std::function<void(std::vector<NamedTensor>&)>;

namespace detail {

// The items of torch::OrderedDict, of jit's lists, of maps and pairs, and NamedTensor itself.
template <class Item>
NamedTensor to_named_tensor(Item&& item) {
  if constexpr (std::is_same_v<std::remove_cvref_t<Item>, NamedTensor>) {
    return std::forward<Item>(item);
  } else if constexpr (requires { item.key(); item.value(); }) {
    return {item.key(), item.value(), {}};
  } else if constexpr (requires { item.name; item.value; }) {
    return {item.name, item.value, {}};
  } else {
    return {std::string(item.first), item.second, {}};
  }
}

template <class Range>
void append_named(Range&& range, std::optional<bool> buffer, std::vector<NamedTensor>& out) {
  for (auto&& item : range) {
    out.push_back(to_named_tensor(item));
    if (buffer) out.back().buffer = buffer;
  }
}

template <class M>
concept HasNamedParameters = requires(M& m) { m.named_parameters(); };
template <class M>
concept HasNamedBuffers = requires(M& m) { m.named_buffers(); };
// torch::nn::ModuleHolder and whatever else owns a module as it does.
template <class M>
concept HoldsModule = !HasNamedParameters<M> && requires(M& m) {
  { *m.ptr() } -> HasNamedParameters;
};
// std::shared_ptr of something with named parameters; a ModuleHolder has no element_type.
template <class M>
concept SharesModule = !HasNamedParameters<M> && requires(M& m) {
  typename M::element_type;
  { *m } -> HasNamedParameters;
  requires std::same_as<M, std::shared_ptr<typename M::element_type>>;
};
// jit::Module is itself a handle: copies share the object.
template <class M>
concept IsHandle = HasNamedParameters<M> && requires(M& m) { m._ivalue(); };

template <class M>
void append_module(M& module, std::vector<NamedTensor>& out) {
  append_named(module.named_parameters(), false, out);
  if constexpr (HasNamedBuffers<M>) append_named(module.named_buffers(), true, out);
}

template <class Pointer>
void require_module(const Pointer& module) {
  if (!module) {
    throw Error(Status(Code::kInvalid, "the source is an empty module pointer: give a module that exists"));
  }
}

template <class Shared>
NamedTensorLister list_shared(Shared module) {
  require_module(module);
  return [module = std::move(module)](std::vector<NamedTensor>& out) { append_module(*module, out); };
}

}  // namespace detail

/// Makes a lister of any source: a torch::nn::Module, its holder or a shared_ptr to it; a submodule;
/// a torch::jit::Module; any type with named_parameters() (and named_buffers()); or a callable
/// without arguments that returns a range of NamedTensor, of (name, tensor) pairs or of the like.
///
/// Ownership: holders, shared pointers and jit modules are shared, and so is a torch::nn::Module
/// reference where a shared_ptr owns the module. Any other reference must outlive the lister.
/// @throw Error (kInvalid) for an empty pointer
template <class Source>
NamedTensorLister make_lister(Source&& source) {
  using S = std::remove_cvref_t<Source>;
  if constexpr (std::same_as<S, NamedTensorLister>) {
    return std::forward<Source>(source);
  } else if constexpr (detail::IsHandle<S>) {
    return [handle = source](std::vector<NamedTensor>& out) mutable { detail::append_module(handle, out); };
  } else if constexpr (detail::HasNamedParameters<S>) {
    static_assert(std::is_lvalue_reference_v<Source>,
                  "a module is attached by reference and must live on: give a named object, a holder "
                  "or a shared_ptr");
    if constexpr (requires { source.weak_from_this(); }) {
      if (auto shared = source.weak_from_this().lock()) {
        return detail::list_shared(std::shared_ptr<std::remove_reference_t<Source>>(shared, &source));
      }
    }
    return [module = &source](std::vector<NamedTensor>& out) { detail::append_module(*module, out); };
  } else if constexpr (detail::SharesModule<S>) {
    return detail::list_shared(source);
  } else if constexpr (detail::HoldsModule<S>) {
    if constexpr (requires { static_cast<bool>(source); }) detail::require_module(source);
    return detail::list_shared(source.ptr());
  } else {
    static_assert(std::is_invocable_v<std::decay_t<Source>&>,
                  "not a source: expected a module (or holder, shared_ptr, jit::Module), a type with "
                  "named_parameters(), or a callable that returns (name, tensor) pairs");
    return [list = std::forward<Source>(source)](std::vector<NamedTensor>& out) mutable {
      detail::append_named(list(), {}, out);
    };
  }
}

/// Converts a source's floating tensors in place and leaves the others alone, as
/// AttachOptions::dtype does; torch::nn::Module::to(dtype) converts BatchNorm's counters too.
/// @throw Error (kInvalid) for an empty pointer; c10::Error where a tensor cannot be converted
template <class Source>
void cast_floating(Source&& source, c10::ScalarType type) {
  std::vector<NamedTensor> tensors;
  make_lister(std::forward<Source>(source))(tensors);
  for (NamedTensor& t : tensors) {
    if (t.tensor.is_floating_point() && t.tensor.scalar_type() != type) {
      t.tensor.set_data(t.tensor.detach().to(type));
    }
  }
}

/// Further tensors beside a source (observation normalizers, say): a list, or a callable as above,
/// called at each publish point. They count as buffers unless they say otherwise.
class ExtraTensors {
 public:
  ExtraTensors() = default;
  ExtraTensors(std::initializer_list<std::pair<std::string, at::Tensor>> tensors)
      : ExtraTensors(std::vector<std::pair<std::string, at::Tensor>>(tensors)) {}
  ExtraTensors(std::vector<std::pair<std::string, at::Tensor>> tensors)  // NOLINT(google-explicit-constructor)
      : list_([tensors = std::move(tensors)](std::vector<NamedTensor>& out) {
          detail::append_named(tensors, {}, out);
        }) {}
  template <class Callable>
    requires(!std::same_as<std::remove_cvref_t<Callable>, ExtraTensors> &&
             std::is_invocable_v<std::decay_t<Callable>&>)
  ExtraTensors(Callable&& callable)  // NOLINT(google-explicit-constructor)
      : list_(make_lister(std::forward<Callable>(callable))) {}

  void append(std::vector<NamedTensor>& out) const {
    if (!list_) return;
    const std::size_t first = out.size();
    list_(out);
    for (std::size_t i = first; i < out.size(); ++i) {
      if (!out[i].buffer) out[i].buffer = true;
    }
  }

 private:
  NamedTensorLister list_;
};

}  // namespace weightcast
