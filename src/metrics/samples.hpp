// What one look at all metrics found.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/histogram.hpp"
#include "metrics/families.hpp"

namespace weightcast::metrics {

using Labels = std::vector<std::pair<std::string, std::string>>;

struct Sample {
  Labels labels;
  double value = 0;  ///< of a counter or gauge
  /// Of a histogram: greatest value and count of each range alone, then what is beyond them.
  std::vector<std::pair<double, std::uint64_t>> ranges{};
  std::uint64_t beyond = 0;
  double sum = 0;
};

/// Not thread safe.
class Samples {
 public:
  /// Those that follow are of this member.
  void begin_member(std::string_view job, std::string_view policy, std::string_view member);
  /// Those that follow are the process's.
  void begin_process() { member_.clear(); }

  /// @param own the value of the family's own label; "" where it has none
  void add(Id id, double value, std::string_view own = {});
  /// @param scale that the histogram is divided by: 1e9 makes seconds of nanoseconds
  void add(Id id, const base::Histogram& histogram, double scale, std::string_view own = {});

  const std::vector<Sample>& of(Id id) const { return samples_[static_cast<std::size_t>(id)]; }

 private:
  /// Null where there is one of these labels already: members of one name are one.
  Sample* make(Id id, std::string_view own);

  Labels member_;
  std::array<std::vector<Sample>, static_cast<std::size_t>(Id::kCount)> samples_;
};

}  // namespace weightcast::metrics
