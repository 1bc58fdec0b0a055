// Which shares hold what of a tensor, by its names.
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "plan/boxes.hpp"
#include "plan/manifest.hpp"

namespace weightcast::plan {

/// An entry of a manifest.
struct Holder {
  std::uint32_t share = 0;
  std::uint32_t entry = 0;
};

/// A tensor of the policy and all that is held of it.
struct PolicyTensor {
  const TensorInfo* info = nullptr;  ///< of its first holder
  std::vector<Holder> holders;       ///< by box, so that equal ones are adjacent; then by share
};

/// Views a manifest, which outlives it and has passed check_manifest.
class PolicyMap {
 public:
  explicit PolicyMap(const Manifest& manifest);

  /// By name or alias; null: none.
  const PolicyTensor* find(std::string_view name) const;
  /// In the order in which they first stand in the manifest.
  const std::vector<PolicyTensor>& tensors() const noexcept { return tensors_; }

  const ShareEntry& entry(const Holder& holder) const noexcept {
    return manifest_.shares[holder.share].entries[holder.entry];
  }
  Box box(const Holder& holder) const noexcept { return box_of(entry(holder).info); }

 private:
  const Manifest& manifest_;
  std::vector<PolicyTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> by_name_;
};

}  // namespace weightcast::plan
