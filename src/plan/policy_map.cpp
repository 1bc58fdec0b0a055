#include "plan/policy_map.hpp"

#include <algorithm>

namespace weightcast::plan {

PolicyMap::PolicyMap(const Manifest& manifest) : manifest_(manifest) {
  for (std::uint32_t s = 0; s < manifest.shares.size(); ++s) {
    const auto& entries = manifest.shares[s].entries;
    for (std::uint32_t e = 0; e < entries.size(); ++e) {
      const TensorInfo& info = entries[e].info;
      const auto [found, is_new] = by_name_.try_emplace(info.name, tensors_.size());
      if (is_new) {
        tensors_.push_back({&info, {}});
        for (const std::string& alias : info.aliases) by_name_.try_emplace(alias, found->second);
      }
      tensors_[found->second].holders.push_back({s, e});
    }
  }
  for (PolicyTensor& tensor : tensors_) {
    std::stable_sort(tensor.holders.begin(), tensor.holders.end(),
                     [this](const Holder& x, const Holder& y) { return before(box(x), box(y)); });
  }
}

const PolicyTensor* PolicyMap::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

}  // namespace weightcast::plan
