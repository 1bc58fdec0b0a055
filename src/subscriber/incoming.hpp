// A version on its way in, between StartStage and Switch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <weightcast/subscriber.hpp>

#include "plan/image_plan.hpp"
#include "plan/manifest.hpp"
#include "subscriber/image.hpp"
#include "subscriber/sources.hpp"

namespace weightcast::subscriber {

struct Incoming {
  std::uint64_t op = 0;
  Version version;
  plan::Manifest manifest;
  Activation activation = Activation::kView;
  std::vector<ShareSource> sources;
  std::vector<OpenShare> shares;       ///< held until the bytes are here
  plan::ImagePlan plan;                ///< empty where it is a view
  std::vector<TensorInfo> infos;       ///< as the engine will see its tensors
  std::shared_ptr<Image> image;        ///< view and flip: what Switch will serve
  std::vector<char> there;             ///< by bucket: whether it was read ahead; empty: none was
  std::shared_ptr<ImageBuffer> staged;  ///< staged: the verified copy
};

/// Calls into an applier, whatever it throws.
template <class Call>
Status guarded(const char* step, Call&& call) noexcept {
  try {
    return call();
  } catch (const std::exception& error) {
    return Status(Code::kInternal, std::string("the applier's ") + step + " threw: " + error.what());
  } catch (...) {
    return Status(Code::kInternal, std::string("the applier's ") + step + " threw");
  }
}

}  // namespace weightcast::subscriber
