#include "publisher/nccl_choice.hpp"

#include <string>
#include <utility>

#include "base/log.hpp"
#include "driver/nccl.hpp"
#include "stream/nccl_steps.hpp"

namespace weightcast::publisher {
namespace {

Result<std::unique_ptr<NcclSource>> open_source(const PublisherOptions& options,
                                                const SlotMemory& memory) {
  if (memory.device() < 0) {
    return Status(Code::kInvalid,
                  "the tensors are in host memory, and NCCL sends from devices: move them to one, or "
                  "set transport to auto");
  }
  auto nccl = driver::load_nccl();
  if (!nccl) return nccl.status();
  NcclSourceOptions how;
  how.device = memory.device();
  how.slot_bytes = options.slot_bytes;
  how.holds = memory.holds();
  how.session = stream::nccl_session_options(options.world_size, options.mode == Mode::kP2p);
  how.gpu = stream::nccl_options();
  return NcclSource::start(std::move(*nccl), memory.cuda(), std::move(how));
}

}  // namespace

Result<std::unique_ptr<NcclSource>> open_nccl_source(const PublisherOptions& options,
                                                     const SlotMemory& memory) {
  const bool is_asked_for = options.transport == TransportChoice::kNccl;
  const bool others = !options.listen.empty() || !options.coordinator.empty();
  const bool may_serve = options.transport == TransportChoice::kAuto && others &&
                         options.trusted_fabric && memory.device() >= 0;
  if (!is_asked_for && !may_serve) return std::unique_ptr<NcclSource>();
  auto source = open_source(options, memory);
  if (!source && is_asked_for) {
    return Status(source.status().code(), "transport = nccl, but " + source.status().message());
  }
  if (!source) {
    base::log(LogLevel::kInfo, "no_nccl",
              {{"policy", options.policy}, {"why", source.status().message()}});
    return std::unique_ptr<NcclSource>();
  }
  base::log(LogLevel::kInfo, "nccl",
            {{"policy", options.policy}, {"device", (*source)->identity()}});
  return source;
}

}  // namespace weightcast::publisher
