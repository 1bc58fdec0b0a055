#include "metrics/samples.hpp"

#include <algorithm>

namespace weightcast::metrics {

void Samples::begin_member(std::string_view job, std::string_view policy,
                           std::string_view member) {
  // Not "job": that label is the scraper's own.
  member_ = {{"trainer_job", std::string(job)},
             {"policy", std::string(policy)},
             {"member", std::string(member)}};
}

Sample* Samples::make(Id id, std::string_view own) {
  Labels labels = member_;
  if (*family(id).label != '\0') labels.emplace_back(family(id).label, own);
  auto& all = samples_[static_cast<std::size_t>(id)];
  const auto is_same = [&](const Sample& sample) { return sample.labels == labels; };
  if (std::any_of(all.begin(), all.end(), is_same)) return nullptr;
  all.push_back({.labels = std::move(labels)});
  return &all.back();
}

void Samples::add(Id id, double value, std::string_view own) {
  if (Sample* const sample = make(id, own)) sample->value = value;
}

void Samples::add(Id id, const base::Histogram& histogram, double scale, std::string_view own) {
  Sample* const sample = make(id, own);
  if (sample == nullptr) return;
  const auto bounds = histogram.bounds();
  for (std::size_t i = 0; i < bounds.size(); ++i) {
    sample->ranges.emplace_back(static_cast<double>(bounds[i]) / scale, histogram.count(i));
  }
  sample->beyond = histogram.count(bounds.size());
  sample->sum = static_cast<double>(histogram.sum()) / scale;
}

}  // namespace weightcast::metrics
