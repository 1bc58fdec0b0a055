#include "subscriber/transport_reason.hpp"

#include <algorithm>

namespace weightcast::subscriber {

std::string transport_reason(const std::vector<ShareSource>& sources, const std::string& relay,
                             TransportChoice wanted) {
  const std::string chosen = wanted == TransportChoice::kAuto ? "auto: " : "chosen: ";
  if (!relay.empty()) return chosen + "an engine serves it already, which spares the trainer";
  const auto uses = [&](TransportChoice way) {
    return std::any_of(sources.begin(), sources.end(),
                       [&](const ShareSource& source) { return source.transport == way; });
  };
  std::string why;
  const auto add = [&](TransportChoice way, const char* text) {
    if (uses(way)) why += (why.empty() ? "" : "; ") + std::string(text);
  };
  add(TransportChoice::kShm, "it lies in this host's shared memory");
  add(TransportChoice::kCudaIpc, "it lies in device memory of this host");
  add(TransportChoice::kNccl, "device to device");
  add(TransportChoice::kTcp, wanted == TransportChoice::kTcp
                                 ? "over tcp, wherever it lies"
                                 : "it lies on another host, or in another container's memory");
  return chosen + why;
}

}  // namespace weightcast::subscriber
