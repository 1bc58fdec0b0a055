// Whether and where a trainer rank serves its slots over tcp.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <weightcast/publisher.hpp>

#include "transport/tcp/tcp_server.hpp"

namespace weightcast::publisher {

/// A rank's side of the tcp transport; none where only this host takes part and tcp was not asked
/// for. Thread safety: any thread, but for the destructor.
class DataServer {
 public:
  using Sessions = std::function<transport::SessionAnswer(const transport::SessionAsk&)>;

  /// @param place the meeting place
  /// @param prefix of the names of the slab's objects
  /// @param sessions as TcpServerOptions::sessions; what it refers to outlives this
  /// @return kInvalid, kNotFound, kDenied for keys and addresses, kExhausted
  static Result<DataServer> start(const PublisherOptions& options, const std::string& place,
                                  const std::string& prefix, Sessions sessions);

  /// For plan::Share::endpoint; empty where it does not serve.
  std::string endpoint() const { return server_ ? server_->endpoint() : std::string(); }
  std::uint64_t sent_bytes() const noexcept { return server_ ? server_->counters().bytes_sent : 0; }
  /// Requests and connections that were refused.
  std::uint64_t refused() const noexcept;

 private:
  std::unique_ptr<transport::TcpServer> server_;
};

}  // namespace weightcast::publisher
