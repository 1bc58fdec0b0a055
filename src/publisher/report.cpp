#include "publisher/report.hpp"

namespace weightcast::publisher {
namespace {

std::string reason(const PublisherOptions& options, bool on_device, bool serves) {
  if (on_device) return "its slots lie in device memory, which engines of this host map";
  const std::string wanted = options.transport == TransportChoice::kAuto ? "auto: " : "chosen: ";
  if (!serves && options.transport == TransportChoice::kShm) return wanted + "this host only";
  if (!serves) return wanted + "no other host takes part (no listen, no coordinator)";
  if (!options.listen.empty()) return wanted + "it listens for other hosts";
  if (!options.coordinator.empty()) return wanted + "rank 0 is on another host";
  return wanted + "over tcp within this host";
}

}  // namespace

protocol::SourceReport lasting_report(const PublisherOptions& options, bool on_device,
                                      const std::string& endpoint) {
  protocol::SourceReport report;
  report.staging = on_device ? "device" : "host";
  report.transport = on_device ? "cuda_ipc" : endpoint.empty() ? "shm" : "shm and tcp";
  report.transport_reason = reason(options, on_device, !endpoint.empty());
  report.slots = options.slots;
  report.slot_bytes = options.slot_bytes;
  return report;
}

}  // namespace weightcast::publisher
