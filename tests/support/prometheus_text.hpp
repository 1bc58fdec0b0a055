// Reads Prometheus' text format 0.0.4 and is strict about its rules.
#pragma once

#include <gtest/gtest.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>

namespace weightcast::test {

struct PrometheusText {
  std::map<std::string, std::string> types;  ///< by family
  std::map<std::string, std::string> helps;
  std::map<std::string, double> values;  ///< by `name{label="value",...}` as it is written

  bool has(const std::string& series) const { return values.contains(series); }
  /// Not a number where there is none.
  double of(const std::string& series) const {
    const auto found = values.find(series);
    return found == values.end() ? std::numeric_limits<double>::quiet_NaN() : found->second;
  }
  /// Of all series of that name.
  double sum(const std::string& name) const {
    double sum = 0;
    for (const auto& [series, value] : values) {
      if (series == name || series.starts_with(name + "{")) sum += value;
    }
    return sum;
  }
};

namespace detail {

inline double number_of(const std::string& text) {
  if (text == "+Inf" || text == "Inf") return std::numeric_limits<double>::infinity();
  double value = std::numeric_limits<double>::quiet_NaN();
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  EXPECT_TRUE(error == std::errc() && end == text.data() + text.size()) << "no number: " << text;
  return value;
}

/// The family that a sample's name belongs to.
inline std::string family_of(const PrometheusText& text, const std::string& name) {
  for (const char* ending : {"_bucket", "_sum", "_count"}) {
    if (!name.ends_with(ending)) continue;
    const std::string family = name.substr(0, name.size() - std::string(ending).size());
    const auto type = text.types.find(family);
    if (type != text.types.end() && type->second == "histogram") return family;
  }
  return name;
}

/// Ranges rise, the last is +Inf and counts everything.
inline void check_histogram(const std::map<double, double>& ranges, double count,
                            const std::string& series) {
  ASSERT_FALSE(ranges.empty()) << series;
  EXPECT_TRUE(std::isinf(ranges.rbegin()->first)) << series << " lacks +Inf";
  EXPECT_EQ(ranges.rbegin()->second, count) << series;
  double last = 0;
  for (const auto& [bound, in_range] : ranges) {
    EXPECT_GE(in_range, last) << series << " falls at " << bound;
    last = in_range;
  }
}

}  // namespace detail

/// Fails the test where a rule is broken.
inline PrometheusText read_prometheus(const std::string& text) {
  static const std::regex kSample(
      R"re(^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*\})? (\S+)( \d+)?$)re");
  static const std::regex kRange(R"re(,?le="([^"]*)")re");
  PrometheusText read;
  std::map<std::string, std::map<double, double>> ranges;  // by the series without its `le`
  std::map<std::string, double> counts;
  std::set<std::string> ended;
  std::string current;
  EXPECT_TRUE(text.empty() || text.back() == '\n') << "the last line has no end";
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, word, family, rest;
    if (line.starts_with("# ")) {
      words >> hash >> word >> family;
      std::getline(words >> std::ws, rest);
      auto& into = word == "TYPE" ? read.types : read.helps;
      EXPECT_TRUE(word == "TYPE" || word == "HELP") << line;
      EXPECT_TRUE(into.emplace(family, rest).second) << "twice: " << line;
      continue;
    }
    std::smatch parts;
    if (!std::regex_match(line, parts, kSample)) {
      ADD_FAILURE() << "no sample: " << line;
      continue;
    }
    const std::string name = parts[1], labels = parts[2];
    family = detail::family_of(read, name);
    EXPECT_TRUE(read.types.contains(family)) << "a sample before its TYPE: " << line;
    if (family != current) {
      EXPECT_TRUE(ended.insert(current).second && !ended.contains(family))
          << "samples of " << family << " do not stand together";
      current = family;
    }
    const double value = detail::number_of(parts[3]);
    EXPECT_TRUE(read.values.emplace(name + labels, value).second) << "twice: " << line;
    if (read.types[family] == "counter") {
      EXPECT_TRUE(name.ends_with("_total") && value >= 0) << line;
    }
    std::smatch range;
    if (name == family + "_bucket" && read.types[family] == "histogram") {
      if (!std::regex_search(labels, range, kRange)) {
        ADD_FAILURE() << "no le: " << line;
        continue;
      }
      std::string others = std::regex_replace(labels, kRange, "");
      ranges[family + (others == "{}" ? "" : others)][detail::number_of(range[1])] = value;
    }
    if (name == family + "_count") counts[family + labels] = value;
  }
  EXPECT_EQ(ranges.size(), counts.size());
  for (const auto& [series, its] : ranges) detail::check_histogram(its, counts[series], series);
  return read;
}

}  // namespace weightcast::test
