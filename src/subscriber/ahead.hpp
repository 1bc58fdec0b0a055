// A version that was read behind its writers before anybody asked for it.
#pragma once

#include <memory>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/image_plan.hpp"
#include "plan/manifest.hpp"
#include "subscriber/image_memory.hpp"

namespace weightcast::subscriber {

struct Ahead {
  Version version;
  plan::Manifest manifest;  ///< its digests are zero
  plan::ImagePlan plan;
  std::shared_ptr<ImageBuffer> buffer;
  std::vector<char> there;  ///< by bucket: whether its bytes are in the buffer
};

/// Whether a version that is to be staged is the one that was read ahead: from the same slots of the
/// same generations to the same places. Pure.
bool continues(const Ahead& ahead, const Version& version, const plan::Manifest& manifest,
               const plan::ImagePlan& plan);

}  // namespace weightcast::subscriber
