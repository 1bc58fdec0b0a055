#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include "metrics/outlet.hpp"

namespace weightcast::metrics {
namespace {

prometheus::MetricType type_of(Kind kind) {
  switch (kind) {
    case Kind::kCounter: return prometheus::MetricType::Counter;
    case Kind::kGauge: return prometheus::MetricType::Gauge;
    case Kind::kHistogram: return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

prometheus::ClientMetric metric_of(const Sample& sample, Kind kind) {
  prometheus::ClientMetric metric;
  for (const auto& [name, value] : sample.labels) metric.label.push_back({name, value});
  metric.counter.value = metric.gauge.value = sample.value;
  if (kind != Kind::kHistogram) return metric;
  std::uint64_t count = 0;
  for (const auto& [greatest, in_range] : sample.ranges) {
    count += in_range;
    metric.histogram.bucket.push_back({count, greatest});
  }
  metric.histogram.sample_count = count + sample.beyond;
  metric.histogram.sample_sum = sample.sum;
  return metric;
}

}  // namespace

std::string prometheus_text(const Samples& samples) {
  std::vector<prometheus::MetricFamily> families;
  for (const Family& its : kFamilies) {
    const auto& all = samples.of(its.id);
    if (all.empty()) continue;
    prometheus::MetricFamily out;
    out.name = its.name;
    out.help = its.help;
    out.type = type_of(its.kind);
    for (const Sample& sample : all) out.metric.push_back(metric_of(sample, its.kind));
    families.push_back(std::move(out));
  }
  // It adds the range to +Inf itself.
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace weightcast::metrics
