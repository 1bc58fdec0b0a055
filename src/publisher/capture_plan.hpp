// What a rank captures, for as long as its tensors stay the same.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <weightcast/publisher.hpp>

#include "plan/manifest.hpp"
#include "plan/shares.hpp"

namespace weightcast::publisher {

struct CapturePlan {
  std::vector<TensorInfo> tensors;    ///< as the trainer holds them
  std::vector<TensorInfo> published;  ///< as they are published
  plan::ShareLayout share;
  std::uint64_t fingerprint = 0;
};

CapturePlan make_capture_plan(const TensorList& list, const PublisherOptions& options);

/// Whether the plan is still that of these tensors, wherever they lie now.
bool same_tensors(const CapturePlan& plan, const TensorList& list);

/// Fills in what stands in the slot: the entries, and their digests where there are any yet.
/// @param digests one an item of the share, or none
void fill_entries(const CapturePlan& plan, std::span<const base::Digest> digests,
                  plan::Share& share);

}  // namespace weightcast::publisher
