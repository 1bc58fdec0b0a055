#include "transport/tcp/tcp_transport.hpp"

#include <utility>
#include <zmq.hpp>

#include "transport/tcp/lane_book.hpp"
#include "transport/tcp/tcp_lane.hpp"

namespace weightcast::transport {

struct TcpTransport::Impl {
  explicit Impl(const TcpOptions& how) : options(how), context(how.io_threads) {
    context.set(zmq::ctxopt::blocky, 0);
  }
  const TcpOptions options;
  SharedCounters counters;
  zmq::context_t context;
};

TcpTransport::TcpTransport(const TcpOptions& options) : impl_(std::make_unique<Impl>(options)) {}
TcpTransport::~TcpTransport() = default;

Status TcpTransport::viable() const {
  if (!impl_->options.keys || zmq_has("curve") == 1) return Status::ok();
  return Status(Code::kUnavailable,
                "this ZeroMQ was built without CURVE, and weights travel encrypted alone: install "
                "a libzmq with libsodium (the distributions' packages have it)");
}

Result<std::unique_ptr<Lane>> TcpTransport::open_lane(const LaneOptions& options) {
  auto flight = Flight::make(options);
  if (!flight) return flight.status();
  auto lane = std::make_unique<TcpLane>(impl_->context, impl_->options, options, std::move(*flight),
                                        impl_->counters);
  if (Status started = lane->start(); !started) return started;
  return std::unique_ptr<Lane>(std::move(lane));
}

TcpCounters TcpTransport::counters() const noexcept {
  const SharedCounters& all = impl_->counters;
  return {.connected = all.connected,
          .lost = all.lost,
          .resent = all.resent,
          .corrupt = all.corrupt,
          .received_bytes = all.received_bytes};
}

}  // namespace weightcast::transport
