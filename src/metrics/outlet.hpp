// Where metrics leave the process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <weightcast/status.hpp>

#include "config/place.hpp"
#include "metrics/samples.hpp"

namespace weightcast::metrics {

/// The text of Prometheus' exposition format 0.0.4.
std::string prometheus_text(const Samples& samples);

/// Writes or serves until its destructor, which waits for its thread, for a bounded time.
class Outlet {
 public:
  virtual ~Outlet() = default;
  /// "http://127.0.0.1:9464/metrics", or a path.
  virtual const std::string& where() const noexcept = 0;
};

/// The text of the moment. Called from an outlet's thread; may throw.
using MakeText = std::function<std::string()>;

/// Serves GET /metrics. Bounded against clients: one thread, few connections at a time, small requests,
/// a few seconds for each.
/// @return kExists where the place is taken, kInvalid or kDenied where it cannot be had
Result<std::unique_ptr<Outlet>> serve_http(const config::Place& place, MakeText text);

/// Writes the file every few seconds and at the end: beside it first, then in its place, readable for
/// everybody, as node_exporter's textfile collector needs it.
/// @return kDenied or kNotFound for a directory that cannot be written to
Result<std::unique_ptr<Outlet>> write_file(const std::string& path, MakeText text);

}  // namespace weightcast::metrics
