#include "publisher/data_server.hpp"

#include <utility>

#include "base/host.hpp"
#include "stream/job_keys.hpp"
#include "transport/shm/slot_store.hpp"

namespace weightcast::publisher {

Result<DataServer> DataServer::start(const PublisherOptions& options, const std::string& place,
                                     const std::string& prefix, Sessions sessions) {
  DataServer server;
  const bool others = !options.listen.empty() || !options.coordinator.empty();
  if (options.transport == TransportChoice::kShm) return server;
  if (options.transport == TransportChoice::kAuto && !others) return server;

  auto keys = stream::keys_of_job({place, options.keys, options.listen, options.coordinator},
                                  keys::Role::kTrainer);
  if (!keys) return keys.status();
  auto address = base::advertised_address(options.advertise, options.coordinator, options.listen);
  if (!address) return address.status();

  transport::TcpServerOptions how;
  how.keys = std::move(*keys);
  how.advertise = *address;
  how.sessions = std::move(sessions);
  // As far as the coordinator is reached: what is meant for this host stays within it.
  std::string bound = "0.0.0.0";
  if (!others) {
    bound = "127.0.0.1";
  } else if (!options.listen.empty()) {
    auto listen = base::parse_host_port("listen", options.listen);
    if (!listen) return listen.status();
    bound = listen->host;
  }
  how.bind = "tcp://" + (bound.find(':') == std::string::npos ? bound : "[" + bound + "]") + ":*";
  auto started = transport::TcpServer::start(how, std::make_shared<transport::SlotStore>(prefix));
  if (!started) return started.status();
  server.server_ = std::move(*started);
  return server;
}

std::uint64_t DataServer::refused() const noexcept {
  if (!server_) return 0;
  const transport::TcpServerCounters counters = server_->counters();
  return counters.refused + counters.invalid + counters.failed_handshakes;
}

}  // namespace weightcast::publisher
