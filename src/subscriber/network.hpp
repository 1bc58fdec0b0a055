// An engine's part in the network: the transport that it reads versions with, and the server at which
// others read what it serves.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include <weightcast/subscriber.hpp>

#include "driver/cuda.hpp"
#include "subscriber/image_store.hpp"
#include "subscriber/sources.hpp"
#include "transport/shm/slot_cache.hpp"
#include "transport/tcp/tcp_server.hpp"
#include "transport/tcp/tcp_transport.hpp"

namespace weightcast::subscriber {

/// Whether bytes come over the network as far as the configuration tells: the trainer is elsewhere, or
/// tcp was asked for.
bool is_over_network(const SubscriberOptions& options) noexcept;

/// Keys are loaded when something first goes over the network. Thread safety: transports' functions
/// from one thread, counters from any. Outlives what its TransportSet opened.
class Network {
 public:
  /// @param place the meeting place
  /// @param cuda of the device that images lie in; null: they lie in host memory
  Network(const SubscriberOptions& options, std::string place,
          std::shared_ptr<driver::Cuda> cuda = {})
      : options_(options), place_(std::move(place)), cuda_(std::move(cuda)) {}

  /// Starts to serve `store` to engines that join, where the option `relay` and the configuration say
  /// so; never what lies on a device. @return kInvalid, kNotFound, kDenied for keys and addresses, kExhausted
  Status serve(std::shared_ptr<transport::SegmentStore> store);

  /// Refers to this object.
  TransportSet transports();

  /// Where joiners read; empty: nowhere.
  std::string relay_endpoint() const { return server_ ? server_->endpoint() : std::string(); }
  void note_counters(SubscriberStatus& status) const;

 private:
  Result<std::shared_ptr<const keys::KeyRing>> keys() const;
  transport::SlotUse slot_use() const;

  const SubscriberOptions& options_;
  const std::string place_;
  const std::shared_ptr<driver::Cuda> cuda_;
  std::unique_ptr<transport::TcpServer> server_;
  mutable std::mutex mutex_;
  std::shared_ptr<transport::TcpTransport> tcp_;
};

}  // namespace weightcast::subscriber
