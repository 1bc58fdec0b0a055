#include "subscriber/network.hpp"

#include <utility>

#include "base/host.hpp"
#include "driver/nccl.hpp"
#include "stream/job_keys.hpp"
#include "stream/nccl_steps.hpp"
#include "transport/cuda_ipc/cuda_ipc_transport.hpp"
#include "transport/shm/shm_transport.hpp"

namespace weightcast::subscriber {

bool is_over_network(const SubscriberOptions& options) noexcept {
  return options.transport == TransportChoice::kTcp ||
         (options.transport == TransportChoice::kAuto && !options.coordinator.empty());
}

Result<std::shared_ptr<const keys::KeyRing>> Network::keys() const {
  return stream::keys_of_job({place_, options_.keys, {}, options_.coordinator},
                             keys::Role::kEngine);
}

Status Network::serve(std::shared_ptr<transport::SegmentStore> store) {
  const bool in_place =
      options_.activation == Activation::kStaged || options_.activation == Activation::kSerial;
  if (!options_.relay || !is_over_network(options_) || in_place || !options_.layout.empty() ||
      options_.device >= 0) {
    return Status::ok();
  }
  auto ring = keys();
  if (!ring) return ring.status();
  auto address = base::advertised_address(options_.advertise, options_.coordinator);
  if (!address) return address.status();
  transport::TcpServerOptions how;
  how.keys = std::move(*ring);
  how.advertise = *address;
  // What a dead joiner holds keeps the next version out here. The living say every quarter of a second
  // that they still hold.
  how.limits.silence = std::chrono::seconds(1);
  // A trainer on this host is met by the announcement, so all engines are here too.
  how.bind = options_.coordinator.empty() ? "tcp://127.0.0.1:*" : "tcp://0.0.0.0:*";
  auto started = transport::TcpServer::start(how, std::move(store));
  if (!started) return started.status();
  server_ = std::move(*started);
  return Status::ok();
}

transport::SlotUse Network::slot_use() const {
  if (!cuda_) return {};
  const auto properties = cuda_->properties(options_.device);
  const bool reads_only = properties.is_ok() && properties->registers_read_only;
  return {reads_only ? staging::SlotMapping::kShared : staging::SlotMapping::kSharedWritable, cuda_};
}

TransportSet Network::transports() {
  TransportSet set;
  set.host = base::host_identity();
  set.shm = [this]() -> Result<std::shared_ptr<transport::Transport>> {
    return std::shared_ptr<transport::Transport>(
        std::make_shared<transport::ShmTransport>(slot_use()));
  };
  set.cuda_ipc = [reader = options_.device]() -> Result<std::shared_ptr<transport::Transport>> {
    auto cuda = driver::load_cuda();  // an engine in host memory may read a device's, too
    if (!cuda) {
      return Status(cuda.status().code(), "the trainer's bytes lie in device memory: " +
                                              cuda.status().message() +
                                              "; or set the trainer's staging to host");
    }
    auto opened = std::make_shared<transport::CudaIpcTransport>(std::move(*cuda), reader);
    if (Status viable = opened->viable(); !viable) return viable;
    return std::shared_ptr<transport::Transport>(std::move(opened));
  };
  set.tcp = [this]() -> Result<std::shared_ptr<transport::Transport>> {
    auto ring = keys();
    if (!ring) return ring.status();
    transport::TcpOptions how;
    how.keys = std::move(*ring);
    auto tcp = std::make_shared<transport::TcpTransport>(how);
    if (Status viable = tcp->viable(); !viable) return viable;
    const std::lock_guard lock(mutex_);
    tcp_ = tcp;
    return std::shared_ptr<transport::Transport>(std::move(tcp));
  };
  if (options_.device < 0 || !cuda_) return set;
  set.nccl = [this]() -> Result<std::unique_ptr<NcclLane>> {
    auto nccl = driver::load_nccl();
    if (!nccl) return nccl.status();
    auto ring = keys();
    if (!ring) return ring.status();
    NcclLaneOptions how;
    how.name = options_.name;
    how.host = base::host_identity();
    how.job = options_.job;
    how.policy = options_.policy;
    how.device = options_.device;
    how.keys = std::move(*ring);
    how.session = stream::nccl_session_options(1, false);  // the sources decide what is theirs
    return NcclLane::open(std::move(*nccl), cuda_, std::move(how));
  };
  return set;
}

void Network::note_counters(SubscriberStatus& status) const {
  if (server_) status.relayed_bytes = server_->counters().bytes_sent;
  const std::lock_guard lock(mutex_);
  if (!tcp_) return;
  const transport::TcpCounters counters = tcp_->counters();
  status.resent_buckets = counters.resent;
  status.corrupt_buckets = counters.corrupt;
}

}  // namespace weightcast::subscriber
