#include "publisher/capture_plan.hpp"

namespace weightcast::publisher {

CapturePlan make_capture_plan(const TensorList& list, const PublisherOptions& options) {
  CapturePlan made;
  made.tensors.reserve(list.tensors.size());
  made.published.reserve(list.tensors.size());
  for (const TensorView& tensor : list.tensors) {
    made.tensors.push_back(tensor.info);
    made.published.push_back(tensor.info);
    if (options.dtype && dtype_is_floating(tensor.info.dtype)) {
      made.published.back().dtype = *options.dtype;
    }
  }
  made.share = plan::own_share(made.published, options.rank, options.world_size);
  made.fingerprint = plan::layout_fingerprint(made.published);
  return made;
}

bool same_tensors(const CapturePlan& plan, const TensorList& list) {
  if (plan.tensors.size() != list.tensors.size()) return false;
  for (std::size_t i = 0; i < list.tensors.size(); ++i) {
    if (plan.tensors[i] != list.tensors[i].info) return false;
  }
  return true;
}

void fill_entries(const CapturePlan& plan, std::span<const base::Digest> digests,
                  plan::Share& share) {
  share.payload_bytes = plan.share.payload_bytes;
  share.entries.clear();
  share.entries.reserve(plan.share.items.size());
  for (std::size_t i = 0; i < plan.share.items.size(); ++i) {
    const auto& item = plan.share.items[i];
    share.entries.push_back({plan.published[item.tensor], item.offset,
                             digests.empty() ? base::Digest{} : digests[i]});
  }
}

}  // namespace weightcast::publisher
