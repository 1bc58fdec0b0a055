// What an engine's layout means for the policy that there is.
#pragma once

#include <cstdint>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/policy_map.hpp"

namespace weightcast::plan {

/// A box of a policy's tensor and where it goes, with nothing left out.
struct Piece {
  const PolicyTensor* source = nullptr;
  std::vector<std::int64_t> source_origin;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> origin;
};

/// A tensor of the layout: of its pieces' element type.
struct PieceTensor {
  TensorInfo info;
  std::vector<Piece> pieces;
};

/// @return kMismatch or kInvalid as plan_image says
Result<std::vector<PieceTensor>> resolve_layout(const Layout& layout, const PolicyMap& policy);

}  // namespace weightcast::plan
