// Instead of the outlets, in a build without prometheus-cpp.
#include "metrics/outlet.hpp"

namespace weightcast::metrics {
namespace {

Status none() {
  return {Code::kUnavailable,
          "this build of weightcast cannot write metrics: build it with prometheus-cpp (apt: "
          "prometheus-cpp-dev; -Dmetrics=enabled), or leave the option empty"};
}

}  // namespace

std::string prometheus_text(const Samples&) { return {}; }
Result<std::unique_ptr<Outlet>> serve_http(const config::Place&, MakeText) { return none(); }
Result<std::unique_ptr<Outlet>> write_file(const std::string&, MakeText) { return none(); }

}  // namespace weightcast::metrics
